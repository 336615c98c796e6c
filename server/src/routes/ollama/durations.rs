//! The times of one answer, in nanoseconds, as its last line tells them.

use std::time::{Duration, Instant};

use quire_engine::request::Started;
use serde::Serialize;

use crate::generation::UsageCount;

/// When what happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    arrival: Instant,
    /// How long the request waited for its model.
    load: Duration,
    /// When the prompt was computed.
    started: Option<Instant>,
    /// From the arrival to the first step that had tokens of the prompt, with the load.
    queue: Duration,
}

/// Fields of a last line.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Durations {
    pub(super) total_duration: u64,
    pub(super) load_duration: u64,
    prompt_eval_count: u64,
    prompt_eval_duration: u64,
    eval_count: u64,
    eval_duration: u64,
}

impl Clock {
    pub(super) fn new(arrival: Instant, load: Duration) -> Self {
        Self { arrival, load, started: None, queue: Duration::ZERO }
    }

    pub(super) fn take_started(&mut self, started: &Started) {
        self.started = Some(Instant::now());
        self.queue = started.queue;
    }

    /// From the arrival to now.
    pub(super) fn total(&self) -> u64 {
        nanos(self.arrival.elapsed())
    }

    pub(super) fn load(&self) -> u64 {
        nanos(self.load)
    }

    /// As of now, when the answer is over.
    pub(super) fn stop(&self, usage: UsageCount) -> Durations {
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let prompt = started.saturating_duration_since(self.arrival).saturating_sub(self.queue);
        Durations {
            total_duration: nanos(now.saturating_duration_since(self.arrival)),
            load_duration: self.load(),
            prompt_eval_count: usage.prompt,
            prompt_eval_duration: nanos(prompt),
            eval_count: usage.completion,
            eval_duration: nanos(now.saturating_duration_since(started)),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
