//! What a step costs that only decodes: measured for each number of rows.

/// Of a new measurement, once there are some.
const WEIGHT: f64 = 0.2;
/// A step that took longer than this many times its like was disturbed.
const MOST: f64 = 3.0;
/// Steps are measured up to so many rows.
const MAX_ROWS: usize = 2048;

#[derive(Default)]
pub struct StepCost {
    /// By the number of rows.
    measured: Vec<Measured>,
}

#[derive(Clone, Copy, Default)]
struct Measured {
    seconds: f64,
    count: u32,
}

impl StepCost {
    pub fn record(&mut self, num_rows: usize, seconds: f64) {
        if num_rows > MAX_ROWS {
            return;
        }
        if self.measured.len() <= num_rows {
            self.measured.resize(num_rows + 1, Measured::default());
        }
        let Measured { seconds: mean, count } = &mut self.measured[num_rows];
        *count = count.saturating_add(1);
        let weight = (1.0 / f64::from(*count)).max(WEIGHT);
        let seconds = if *count > 1 { seconds.min(MOST * *mean) } else { seconds };
        *mean += weight * (seconds - *mean);
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
        let at = |rows: usize| self.measured[rows].seconds;
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
        (0..30).for_each(|_| cost.record(4, 5.0));
        assert!(cost.seconds(4) > Some(4.9));
        assert_eq!((cost.num_measured(4), cost.num_measured(5)), (32, 0));
    }
}
