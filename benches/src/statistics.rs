//! Mean, median and percentiles.

use serde::Serialize;

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
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let position = percent / 100.0 * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * position.fract()
}

/// What reports say of a set of latencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub mean: f64,
    pub p50: f64,
    pub p99: f64,
}

impl Summary {
    pub fn of(values: &[f64]) -> Self {
        Self { mean: mean(values), p50: median(values), p99: percentile(values, 99.0) }
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
        assert_eq!((summary.mean, summary.p50), (25.0, 1.0));
    }
}
