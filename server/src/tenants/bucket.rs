//! A token bucket: so many a minute, with what a minute brings as the most at once. It may be overdrawn, and is then empty longer.

use std::time::{Duration, Instant};

pub(super) struct Bucket {
    level: f64,
    filled: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(per_minute: u32, now: Instant) -> Self {
        Self { level: f64::from(per_minute), filled: now }
    }

    /// What is in it now.
    pub(super) fn level(&mut self, per_minute: u32, now: Instant) -> f64 {
        let minutes = now.saturating_duration_since(self.filled).as_secs_f64() / 60.0;
        let most = f64::from(per_minute);
        self.level = (self.level + minutes * most).min(most);
        self.filled = now;
        self.level
    }

    pub(super) fn take(&mut self, count: f64) {
        self.level -= count;
    }

    /// Until it has `level`.
    pub(super) fn time_until(&self, level: f64, per_minute: u32) -> Duration {
        let lacking = (level - self.level).max(0.0);
        Duration::from_secs_f64((lacking / f64::from(per_minute) * 60.0).min(86_400.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_fills_with_time_and_pays_its_debts() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut bucket = Bucket::new(60, start);
        assert_eq!(bucket.level(60, at(100)), 60.0, "no more than a minute's");
        bucket.take(90.0);
        let is_near = |time: Duration, seconds: f64| (time.as_secs_f64() - seconds).abs() < 1e-6;
        assert!(is_near(bucket.time_until(1.0, 60), 31.0));
        assert!((bucket.level(60, at(131)) - 1.0).abs() < 1e-6);
        assert!(is_near(bucket.time_until(60.0, 60), 59.0));
        // A smaller limit holds at once.
        assert_eq!(bucket.level(6, at(1000)), 6.0);
    }
}
