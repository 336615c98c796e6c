//! A request in the engine: its client's stream, its clock, and what is still to be said.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quire_scheduler as scheduler;

use crate::handle::EventSender;
use crate::metrics::{EngineMetrics, RequestCounts, RequestTimes};
use crate::request::{
    DraftCount, FinishReason, Finished, Started, StreamEvent, TokenId, TokenLogprobs, TokenOutput,
};
use crate::sequence_table::RowSampling;
use crate::view::{RequestState, RequestView};

/// One request between its submission and its end.
pub struct Live {
    id: scheduler::SequenceId,
    events: EventSender,
    pub sampling: Arc<RowSampling>,
    pub num_prompt_tokens: u32,
    pub cache_salt: u64,
    num_output_tokens: u32,
    num_cached_tokens: u32,
    /// Times that it got a row: one more than it was preempted.
    num_admissions: u32,
    /// Filled as chunks of the prompt are computed, until the first token is sent.
    prompt_logprobs: Vec<Option<TokenLogprobs>>,
    arrival: Instant,
    first_scheduled: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Live {
    pub fn new(
        id: scheduler::SequenceId,
        events: EventSender,
        sampling: Arc<RowSampling>,
        (num_prompt_tokens, cache_salt): (u32, u64),
        arrival: Instant,
    ) -> Self {
        let wants_prompt = sampling.params.prompt_logprobs.is_some();
        let prompt_logprobs = vec![None; if wants_prompt { num_prompt_tokens as usize } else { 0 }];
        Self {
            id,
            events,
            sampling,
            num_prompt_tokens,
            cache_salt,
            num_output_tokens: 0,
            num_cached_tokens: 0,
            num_admissions: 0,
            prompt_logprobs,
            arrival,
            first_scheduled: None,
            first_token: None,
            last_token: None,
        }
    }

    /// Whether the client has gone.
    pub fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// Whether a client that has gone has all that it wanted.
    pub fn is_satisfied(&self) -> bool {
        self.events.is_satisfied()
    }

    /// Since when it waits for its first step, if it does.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.first_scheduled.is_none().then_some(self.arrival)
    }

    /// The sequence got a row; only the first time counts for what the client is told.
    pub fn admitted(&mut self, num_cached_tokens: u32, now: Instant) {
        self.num_admissions += 1;
        if self.first_scheduled.is_none() {
            self.first_scheduled = Some(now);
            self.num_cached_tokens = num_cached_tokens;
        }
    }

    /// Keeps log probabilities of the prompt from token `first_token` on.
    pub fn keep_prompt_logprobs(&mut self, first_token: u32, entries: &[TokenLogprobs]) {
        if self.first_token.is_none() {
            let slots = self.prompt_logprobs.iter_mut().skip(first_token as usize);
            slots.zip(entries).for_each(|(slot, entry)| *slot = Some(entry.clone()));
        }
    }

    /// Whether an embedding is wanted.
    pub fn is_pooled(&self) -> bool {
        self.sampling.pooling.is_some()
    }

    /// Sends the embedding, which ends the request.
    pub fn emit_embedding(
        &mut self,
        embedding: Vec<f32>,
        now: Instant,
        metrics: &mut EngineMetrics,
    ) {
        self.first_token = Some(now);
        metrics.prompt(self.num_prompt_tokens, self.num_cached_tokens);
        let started = self.started();
        self.events.send(started);
        self.events.send(StreamEvent::Embedding(embedding));
    }

    /// Sends tokens that the scheduler accepted in one step, after its drafts, with their log probabilities where there are any.
    /// `false`: the client has gone.
    pub fn emit_tokens(
        &mut self,
        (tokens, drafts): (&[TokenId], DraftCount),
        logprobs: &[TokenLogprobs],
        now: Instant,
        metrics: &mut EngineMetrics,
    ) -> bool {
        if tokens.is_empty() {
            return true;
        }
        self.observe(now, metrics);
        self.num_output_tokens += tokens.len() as u32;
        metrics.generated(tokens.len() as u32);
        if drafts.num_tokens > 0 {
            self.events.send(StreamEvent::Drafts(drafts));
        }
        let output = |(index, &token): (usize, &TokenId)| {
            let logprobs = logprobs.get(index).cloned();
            self.events.send(StreamEvent::Token(TokenOutput { token, logprobs }))
        };
        tokens.iter().enumerate().map(output).fold(true, |is_open, sent| is_open & sent)
    }

    /// The latency between tokens is that between the steps that brought some.
    fn observe(&mut self, now: Instant, metrics: &mut EngineMetrics) {
        if let Some(last) = self.last_token {
            metrics.inter_token_latency.record((now - last).as_secs_f64());
        } else {
            self.first_token = Some(now);
            metrics.time_to_first_token.record((now - self.arrival).as_secs_f64());
            metrics.prompt(self.num_prompt_tokens, self.num_cached_tokens);
            let started = self.started();
            self.events.send(started);
        }
        self.last_token = Some(now);
    }

    fn started(&mut self) -> StreamEvent {
        let scheduled = self.first_scheduled.unwrap_or(self.arrival);
        StreamEvent::Started(Started {
            num_cached_tokens: self.num_cached_tokens,
            queue: scheduled.saturating_duration_since(self.arrival),
            prompt_logprobs: std::mem::take(&mut self.prompt_logprobs),
        })
    }

    /// Says the last word.
    pub fn finish(mut self, reason: FinishReason, now: Instant, metrics: &mut EngineMetrics) {
        if self.first_token.is_none() {
            let started = self.started();
            self.events.send(started);
        }
        metrics.finish(&reason, self.view(now));
        self.events.send(StreamEvent::Finished(Finished {
            reason,
            num_prompt_tokens: self.num_prompt_tokens,
            num_output_tokens: self.num_output_tokens,
            num_cached_tokens: self.num_cached_tokens,
        }));
    }

    /// What may be seen of it.
    pub fn view(&self, now: Instant) -> RequestView {
        RequestView {
            id: self.id.0,
            state: match self.first_scheduled {
                Some(_) => RequestState::Running,
                None => RequestState::Waiting,
            },
            arrival: self.arrival,
            times: self.times(now),
            counts: self.counts(),
        }
    }

    fn counts(&self) -> RequestCounts {
        RequestCounts {
            prompt: self.num_prompt_tokens,
            cached: self.num_cached_tokens,
            output: self.num_output_tokens,
            preemptions: self.num_admissions.saturating_sub(1),
            max_tokens: self.sampling.params.max_tokens.filter(|_| !self.is_pooled()),
        }
    }

    fn times(&self, now: Instant) -> RequestTimes {
        let scheduled = self.first_scheduled.unwrap_or(now);
        let (first, last) = (self.first_token.unwrap_or(now), self.last_token.unwrap_or(now));
        RequestTimes {
            e2e: now - self.arrival,
            queue: scheduled.saturating_duration_since(self.arrival),
            prefill: first.saturating_duration_since(scheduled),
            decode: last.checked_duration_since(first).unwrap_or(Duration::ZERO),
        }
    }
}

/// The client's words for the scheduler's.
pub fn finish_reason(reason: scheduler::FinishReason, error: &str) -> FinishReason {
    match reason {
        scheduler::FinishReason::Stop => FinishReason::EndToken,
        scheduler::FinishReason::StopToken(token) => FinishReason::StopToken(token),
        scheduler::FinishReason::Length => FinishReason::Length,
        scheduler::FinishReason::Aborted => FinishReason::Aborted,
        scheduler::FinishReason::Error => FinishReason::Error(error.into()),
    }
}
