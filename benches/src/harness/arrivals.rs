//! When requests are meant to be sent: fixed before the run, so that a slow server cannot slow its own load.

use std::time::Duration;

use super::random::Random;

/// Times of `num` arrivals after the start, at `rate` a second.
///
/// Gaps are gamma distributed with shape `burstiness`: 1 is a Poisson process, less is burstier, more is smoother, infinity is
/// constant. All are scaled so that the last arrival is at `num / rate`. Source: `get_request` in vLLM's `benchmarks/serve.py`.
pub fn schedule(num: usize, rate: f64, burstiness: f64, seed: u64) -> Vec<Duration> {
    let mut random = Random::new(seed);
    let mut time = 0.0;
    let mut times = Vec::with_capacity(num);
    for _ in 0..num {
        time += if burstiness.is_finite() { random.gamma(burstiness) } else { 1.0 };
        times.push(time);
    }
    let scale = if time > 0.0 { num as f64 / rate / time } else { 0.0 };
    times.into_iter().map(|time| Duration::from_secs_f64(time * scale)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::mean;

    /// Standard deviation of the gaps over their mean.
    fn variation(burstiness: f64) -> f64 {
        let times = schedule(20_000, 50.0, burstiness, 3);
        assert!((times[19_999].as_secs_f64() - 400.0).abs() < 1e-6);
        let gaps: Vec<f64> =
            times.windows(2).map(|pair| pair[1].saturating_sub(pair[0]).as_secs_f64()).collect();
        let mean_gap = mean(&gaps);
        let squares: Vec<f64> = gaps.iter().map(|gap| (gap - mean_gap).powi(2)).collect();
        mean(&squares).sqrt() / mean_gap
    }

    #[test]
    fn burstiness_is_the_shape_of_gamma_gaps() {
        for (burstiness, expected) in [(0.25, 2.0), (1.0, 1.0), (4.0, 0.5), (f64::INFINITY, 0.0)] {
            let found = variation(burstiness);
            assert!((found - expected).abs() < 0.05, "{burstiness}: {found}, not {expected}");
        }
    }

    #[test]
    fn a_seed_gives_one_schedule() {
        assert_eq!(schedule(50, 2.0, 1.0, 9), schedule(50, 2.0, 1.0, 9));
        assert_ne!(schedule(50, 2.0, 1.0, 9), schedule(50, 2.0, 1.0, 8));
        assert!(schedule(0, 2.0, 1.0, 1).is_empty());
    }
}
