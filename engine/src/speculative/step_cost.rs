//! What a step costs that only decodes: measured for each number of rows, and never less for more rows.
//!
//! Who chooses the number of rows by their measured times chooses those whose measurement came out too low. So times are
//! fitted: the nearest ones that never fall with the number of rows (isotonic regression, Barlow et al. 1972).

/// Of a new measurement, once there are some.
const WEIGHT: f64 = 0.2;
/// A step that took longer than this many times its like was disturbed.
const MOST: f64 = 3.0;
/// A measurement repeated more often than this weighs as much as repeated so often, being a moving mean.
const MOST_WEIGHT: u32 = 8;
/// Steps are measured up to so many rows.
const MAX_ROWS: usize = 2048;

#[derive(Default)]
pub struct StepCost {
    /// By the number of rows.
    measured: Vec<Measured>,
    /// Of one fit.
    levels: Vec<Level>,
}

#[derive(Clone, Copy, Default)]
struct Measured {
    seconds: f64,
    count: u32,
    fitted: f64,
}

/// Neighbours that share a fitted time, from the one before up to `last`.
#[derive(Clone, Copy)]
struct Level {
    seconds: f64,
    weight: f64,
    last: usize,
}

impl StepCost {
    pub fn record(&mut self, num_rows: usize, seconds: f64) {
        if num_rows > MAX_ROWS {
            return;
        }
        if self.measured.len() <= num_rows {
            self.measured.resize(num_rows + 1, Measured::default());
        }
        let Measured { seconds: mean, count, .. } = &mut self.measured[num_rows];
        *count = count.saturating_add(1);
        let weight = (1.0 / f64::from(*count)).max(WEIGHT);
        let seconds = if *count > 1 { seconds.min(MOST * *mean) } else { seconds };
        *mean += weight * (seconds - *mean);
        self.fit();
    }

    /// What a step of so many rows took, but for what disturbed it.
    pub fn undisturbed(&self, num_rows: usize, seconds: f64) -> f64 {
        self.seconds(num_rows).map_or(seconds, |usual| seconds.min(MOST * usual))
    }

    /// Neighbours are put together as long as the earlier one is dearer.
    fn fit(&mut self) {
        self.levels.clear();
        let known = self.measured.iter().enumerate().filter(|(_, measured)| measured.count > 0);
        for (last, measured) in known {
            let weight = f64::from(measured.count.min(MOST_WEIGHT));
            let mut level = Level { seconds: measured.seconds, weight, last };
            while let Some(before) = self.levels.pop_if(|before| before.seconds >= level.seconds) {
                let weight = before.weight + level.weight;
                let sum = before.seconds * before.weight + level.seconds * level.weight;
                level = Level { seconds: sum / weight, weight, last };
            }
            self.levels.push(level);
        }
        let mut first = 0;
        for level in &self.levels {
            self.measured[first..=level.last].iter_mut().for_each(|own| own.fitted = level.seconds);
            first = level.last + 1;
        }
    }

    /// The most rows that were measured.
    pub fn most_rows(&self) -> usize {
        self.measured.len().saturating_sub(1)
    }

    /// How often steps of so many rows were measured.
    pub fn num_measured(&self, num_rows: usize) -> u32 {
        self.measured.get(num_rows).map_or(0, |measured| measured.count)
    }

    /// Seconds of a step: between two measured numbers of rows in proportion. Beyond the largest, more rows are taken to
    /// cost nothing, so that it is tried. `None`: nothing was measured yet.
    pub fn seconds(&self, num_rows: usize) -> Option<f64> {
        let known = |rows: &usize| self.measured[*rows].count > 0;
        let below = (0..self.measured.len().min(num_rows + 1)).rev().find(known);
        let above = (num_rows..self.measured.len()).find(known);
        let at = |rows: usize| self.measured[rows].fitted;
        match (below, above) {
            (Some(below), Some(above)) if below < above => {
                let part = (num_rows - below) as f64 / (above - below) as f64;
                Some(at(below) + part * (at(above) - at(below)))
            }
            (Some(rows), _) | (None, Some(rows)) => Some(at(rows)),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_cost_what_was_measured() {
        let mut cost = StepCost::default();
        assert_eq!(cost.seconds(3), None);
        cost.record(4, 1.0);
        assert_eq!([1, 4, 9].map(|rows| cost.seconds(rows)), [Some(1.0); 3]);
        cost.record(8, 2.0);
        assert_eq!([4, 6, 8, 20].map(|rows| cost.seconds(rows)), [1.0, 1.5, 2.0, 2.0].map(Some));
        // A frozen machine is not a slow one, but slow stays slow.
        cost.record(4, 1000.0);
        assert!(cost.seconds(4) < Some(2.1));
        assert_eq!(cost.undisturbed(20, 1000.0), 6.0);
        assert_eq!(cost.undisturbed(20, 1.5), 1.5);
        (0..30).for_each(|_| [4, 8].iter().for_each(|&rows| cost.record(rows, 5.0)));
        assert!(cost.seconds(4) > Some(4.9));
        assert_eq!((cost.num_measured(4), cost.num_measured(5), cost.most_rows()), (32, 0, 8));
    }

    #[test]
    fn more_rows_never_cost_less() {
        let mut cost = StepCost::default();
        for (rows, seconds) in
            [(1, 1.0), (2, 3.0), (3, 2.0), (5, 2.5), (9, 4.0), (10, 3.5), (12, 9.0)]
        {
            cost.record(rows, seconds);
        }
        let fitted = [1, 2, 3, 4, 5, 9, 10, 12].map(|rows| cost.seconds(rows).unwrap_or(0.0));
        assert_eq!(fitted, [1.0, 2.5, 2.5, 2.5, 2.5, 3.75, 3.75, 9.0]);
        // A single low measurement weighs less than many.
        (0..20).for_each(|_| cost.record(9, 4.0));
        cost.record(10, 0.5);
        assert!(cost.seconds(10) > Some(3.0) && cost.seconds(10) == cost.seconds(9));
    }
}
