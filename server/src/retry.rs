//! How long a refused client should wait: from how fast answers finish.

use std::time::Instant;

use parking_lot::Mutex;

/// A running average of the time between two finished answers.
#[derive(Default)]
pub(crate) struct DrainRate(Mutex<Average>);

#[derive(Default)]
struct Average {
    last: Option<Instant>,
    /// Seconds; `None` before the second answer.
    interval: Option<f64>,
}

impl DrainRate {
    /// An answer has just finished.
    pub(crate) fn record(&self, now: Instant) {
        const NEW_SHARE: f64 = 0.1;
        let mut average = self.0.lock();
        if let Some(last) = average.last.replace(now) {
            let gap = now.saturating_duration_since(last).as_secs_f64();
            let known = average.interval.unwrap_or(gap);
            average.interval = Some(known + (gap - known) * NEW_SHARE);
        }
    }

    /// Whole seconds for `num_waiting` answers to finish: 1 to 60.
    pub(crate) fn seconds_for(&self, num_waiting: u32) -> u64 {
        let interval = self.0.lock().interval.unwrap_or(0.0);
        (interval * f64::from(num_waiting)).ceil().clamp(1.0, 60.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::DrainRate;

    #[test]
    fn the_wait_follows_the_measured_rate() {
        let rate = DrainRate::default();
        assert_eq!(rate.seconds_for(100), 1);
        let start = Instant::now();
        for answer in 0..20 {
            rate.record(start + Duration::from_millis(500) * answer);
        }
        assert_eq!(rate.seconds_for(0), 1);
        assert_eq!(rate.seconds_for(10), 5);
        assert_eq!(rate.seconds_for(100_000), 60);
    }
}
