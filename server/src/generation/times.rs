//! How long an answer took, for `metrics` of its response (`--enable-per-request-metrics`).

use std::time::{Duration, Instant};

use quire_engine::request::Started;
use schemars::JsonSchema;
use serde::Serialize;

/// The clock of a request's first answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    arrival: Instant,
    queue: Duration,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    num_tokens: u64,
}

/// vLLM's `metrics` of a response.
#[derive(Clone, Copy, Debug, JsonSchema, PartialEq, Serialize)]
pub(crate) struct RequestMetrics {
    time_to_first_token_ms: Option<f64>,
    /// From the first token to the last.
    generation_time_ms: Option<f64>,
    queue_time_ms: f64,
    mean_itl_ms: Option<f64>,
    /// Since the queue was left.
    tokens_per_second: Option<f64>,
}

impl Times {
    pub(super) fn new(arrival: Instant) -> Self {
        Self { arrival, queue: Duration::ZERO, first_token: None, last_token: None, num_tokens: 0 }
    }

    pub(super) fn start(&mut self, started: &Started) {
        self.queue = started.queue;
    }

    pub(super) fn count(&mut self, num_tokens: u64, now: Instant) {
        if num_tokens > 0 {
            self.first_token.get_or_insert(now);
            self.last_token = Some(now);
            self.num_tokens += num_tokens;
        }
    }

    pub(crate) fn metrics(&self) -> RequestMetrics {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let ends = self.first_token.zip(self.last_token);
        let generation = ends.map(|(first, last)| last.saturating_duration_since(first));
        let latency = self.last_token.map(|last| last.saturating_duration_since(self.arrival));
        let computed = latency.map(|latency| latency.saturating_sub(self.queue).as_secs_f64());
        let gaps = self.num_tokens.saturating_sub(1);
        RequestMetrics {
            time_to_first_token_ms: self.first_token.map(|first| ms(first - self.arrival)),
            generation_time_ms: generation.map(ms),
            queue_time_ms: ms(self.queue),
            mean_itl_ms: generation.filter(|_| gaps > 0).map(|time| ms(time) / gaps as f64),
            tokens_per_second: computed
                .filter(|&seconds| seconds > 0.0)
                .map(|seconds| self.num_tokens as f64 / seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_between_tokens() {
        let arrival = Instant::now();
        let after = |ms: u64| arrival + Duration::from_millis(ms);
        let mut times = Times::new(arrival);
        let silent = times.metrics();
        assert_eq!((silent.time_to_first_token_ms, silent.tokens_per_second), (None, None));
        let queue = Duration::from_millis(20);
        times.start(&Started { queue, ..Started::default() });
        times.count(1, after(100));
        times.count(0, after(110));
        times.count(2, after(120));
        let expected = RequestMetrics {
            time_to_first_token_ms: Some(100.0),
            generation_time_ms: Some(20.0),
            queue_time_ms: 20.0,
            mean_itl_ms: Some(10.0),
            tokens_per_second: Some(30.0),
        };
        assert_eq!(times.metrics(), expected);
    }
}
