//! How long an answer took and what guesses spared it, for `metrics` of its response (`--enable-per-request-metrics`).

use std::time::{Duration, Instant};

use quire_engine::request::{DraftStats, Started};
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
    drafts: DraftStats,
}

/// vLLM's `metrics` of a response.
#[derive(Clone, Debug, JsonSchema, PartialEq, Serialize)]
pub(crate) struct RequestMetrics {
    time_to_first_token_ms: Option<f64>,
    /// From the first token to the last.
    generation_time_ms: Option<f64>,
    queue_time_ms: f64,
    mean_itl_ms: Option<f64>,
    /// Since the queue was left.
    tokens_per_second: Option<f64>,
    /// Where a step verified guesses of this answer (`--speculative`).
    #[serde(skip_serializing_if = "Option::is_none")]
    speculative_decoding: Option<SpeculativeDecoding>,
}

/// What became of an answer's guesses.
#[derive(Clone, Debug, JsonSchema, PartialEq, Serialize)]
struct SpeculativeDecoding {
    /// Tokens of a step with guesses, the sampled one included.
    mean_acceptance_length: f64,
    draft_acceptance_rate: f64,
    /// In how many of these steps no guess was right, one, two, and so on.
    acceptance_histogram: Vec<u64>,
    num_spec_steps: u64,
    num_accepted_draft_tokens: u64,
    num_draft_tokens: u64,
}

impl SpeculativeDecoding {
    /// `None`: nothing was guessed.
    fn of(drafts: &DraftStats) -> Option<Self> {
        let (steps, right) = (drafts.num_verified, drafts.num_right.iter().sum::<u64>());
        // `num_right[i]` counts the steps with more than i right ones.
        let at_least = std::iter::once(steps).chain(drafts.num_right);
        let mut histogram: Vec<u64> = at_least
            .clone()
            .zip(at_least.skip(1).chain([0]))
            .map(|(all, more)| all - more)
            .collect();
        histogram.truncate(histogram.iter().rposition(|&count| count > 0)? + 1);
        Some(Self {
            mean_acceptance_length: 1.0 + right as f64 / steps as f64,
            draft_acceptance_rate: right as f64 / drafts.num_tokens as f64,
            acceptance_histogram: histogram,
            num_spec_steps: steps,
            num_accepted_draft_tokens: right,
            num_draft_tokens: drafts.num_tokens,
        })
    }
}

impl Times {
    pub(super) fn new(arrival: Instant) -> Self {
        Self {
            arrival,
            queue: Duration::ZERO,
            first_token: None,
            last_token: None,
            num_tokens: 0,
            drafts: DraftStats::default(),
        }
    }

    pub(super) fn start(&mut self, started: &Started) {
        self.queue = started.queue;
    }

    pub(super) fn count(&mut self, num_tokens: u64, drafts: &DraftStats, now: Instant) {
        self.drafts.add(drafts);
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
            speculative_decoding: SpeculativeDecoding::of(&self.drafts),
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
        let none = DraftStats::default();
        times.count(1, &none, after(100));
        times.count(0, &none, after(110));
        times.count(2, &none, after(120));
        let expected = RequestMetrics {
            time_to_first_token_ms: Some(100.0),
            generation_time_ms: Some(20.0),
            queue_time_ms: 20.0,
            mean_itl_ms: Some(10.0),
            tokens_per_second: Some(30.0),
            speculative_decoding: None,
        };
        assert_eq!(times.metrics(), expected);
    }

    #[test]
    fn guesses_are_counted_by_steps() {
        let mut times = Times::new(Instant::now());
        for (num_drafts, num_right) in [(3, 3), (3, 0), (2, 1), (4, 0)] {
            let mut drafts = DraftStats::default();
            drafts.count(num_drafts, num_right);
            times.count(u64::from(num_right) + 1, &drafts, Instant::now());
        }
        let expected = SpeculativeDecoding {
            mean_acceptance_length: 2.0,
            draft_acceptance_rate: 4.0 / 12.0,
            acceptance_histogram: vec![2, 1, 0, 1],
            num_spec_steps: 4,
            num_accepted_draft_tokens: 4,
            num_draft_tokens: 12,
        };
        assert_eq!(times.metrics().speculative_decoding, Some(expected));
    }
}
