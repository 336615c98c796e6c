//! Mean, median and percentiles.

use serde::{Deserialize, Serialize};

/// 0 of no values.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

/// The value below which `percent` of all lie, interpolated linearly between neighbours (as numpy does); 0 of no values.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    percentile_of_sorted(&sorted, percent)
}

fn percentile_of_sorted(sorted: &[f64], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let position = percent / 100.0 * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * position.fract()
}

/// The percents of [`Summary::curve`].
pub const CURVE_PERCENTS: [f64; 17] = [
    0.0, 1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 98.0, 99.0, 99.9,
    100.0,
];

/// What reports say of a set of latencies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub count: usize,
    pub mean: f64,
    /// Of the values themselves: the sum of squares is divided by their number.
    pub std: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
    /// The values at [`CURVE_PERCENTS`]; empty of no values.
    pub curve: Vec<f64>,
}

impl Summary {
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |percent| percentile_of_sorted(&sorted, percent);
        let mean = mean(values);
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let curve = CURVE_PERCENTS.iter().filter(|_| !sorted.is_empty());
        Self {
            count: values.len(),
            mean,
            std: (squares / values.len().max(1) as f64).sqrt(),
            p50: at(50.0),
            p90: at(90.0),
            p95: at(95.0),
            p99: at(99.0),
            max: at(100.0),
            curve: curve.map(|&percent| at(percent)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_interpolate_between_neighbours() {
        let values = [4.0, 1.0, 3.0, 2.0];
        let expected = [(0.0, 1.0), (50.0, 2.5), (75.0, 3.25), (99.0, 3.97), (100.0, 4.0)];
        for (percent, value) in expected {
            let difference = percentile(&values, percent) - value;
            assert!(difference.abs() < 1e-12, "p{percent} is off by {difference}");
        }
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn a_summary_of_nothing_is_zero() {
        assert_eq!(Summary::of(&[]), Summary::default());
    }

    #[test]
    fn one_late_value_moves_the_mean_and_not_the_median() {
        let summary = Summary::of(&[1.0, 1.0, 1.0, 97.0]);
        assert_eq!((summary.count, summary.mean, summary.p50, summary.max), (4, 25.0, 1.0, 97.0));
        assert!((summary.std - 41.569).abs() < 1e-3, "{}", summary.std);
        assert_eq!(summary.curve.len(), CURVE_PERCENTS.len());
    }
}
