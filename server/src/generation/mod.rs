//! From prompts of token ids to answers: the requests to the engine and the merged stream of what they yield.

mod answer_text;
mod choice;
pub(crate) mod embed;
pub(crate) mod logprobs;
pub(crate) mod sampling;
pub(crate) mod score;
pub(crate) mod sse;
pub(crate) mod times;

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::SelectAll;
use quire_engine::Request;
use quire_engine::request::{SamplingParams, SubmitError, TokenId, TokenLogprobs, TokenOutput};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;

pub(crate) use choice::{ChoiceEvent, Delta, Finish, StopReason};

use crate::app::{InFlight, SharedState};
use crate::error::ApiError;
use crate::metrics;
use crate::model::ServedModel;
use crate::structured::StructuredOutput;
use crate::tenants::caller::Caller;
use crate::tenants::{Admission, WaitingPlace};
use crate::text::{OutputOptions, ParsedMessage};
use crate::traces::Recording;
use choice::Choice;
use times::{RequestMetrics, Times};

/// `n` answers to each prompt. The answer `k` to prompt `i` has the index `i * n + k`.
#[derive(Debug)]
pub(crate) struct GenerationSpec {
    pub prompts: Vec<Vec<TokenId>>,
    pub n: u32,
    /// Without a constraint, which `submit` makes of `structured_output`.
    pub params: SamplingParams,
    pub structured_output: Option<StructuredOutput>,
    pub text: TextOptions,
    /// How to tell reasoning and calls from content; `None`: the text is shown as it is.
    pub output: Option<OutputOptions>,
    pub priority: i32,
    /// The replica that is to answer; `None`: any.
    pub replica: Option<u32>,
    pub cache_salt: Option<String>,
    pub arrival: Instant,
}

/// How tokens become text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TextOptions {
    pub stop: Vec<String>,
    /// Stop strings and stop tokens are shown.
    pub include_stop: bool,
    pub skip_special_tokens: bool,
    /// A delta for every token, also where it shows no text.
    pub every_token: bool,
}

/// Answers in the making. Dropping it cancels what is not finished.
pub(crate) struct Generation {
    choices: SelectAll<Choice>,
    num_choices: usize,
    n: usize,
    /// Tokens of each answer.
    lengths: Vec<u32>,
    usage: UsageCount,
    caller: Caller,
    recording: Option<Recording>,
    arrival: Instant,
    /// Of each answer, until its first token.
    waiting: Vec<Option<WaitingPlace>>,
    aborting: watch::Receiver<bool>,
    model: Arc<ServedModel>,
    state: SharedState,
    _admission: Admission,
    _in_flight: InFlight,
}

/// A finished answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Of an answer that is not parsed.
    pub text: String,
    /// Of one that is.
    pub message: ParsedMessage,
    pub tokens: Vec<TokenOutput>,
    pub finish: Option<Finish>,
    pub prompt_logprobs: Vec<Option<TokenLogprobs>>,
}

/// Tokens counted so far, and when they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UsageCount {
    /// Each prompt once, however many answers it has.
    pub prompt: u64,
    pub completion: u64,
    /// Of the prompt tokens, those that came from the prefix cache.
    pub cached: u64,
    /// Guesses of completion tokens that steps verified (`--speculative`), and how many of them were right.
    pub drafts: u64,
    pub right_drafts: u64,
    /// Of the completion tokens, those of reasoning; `None` where it is not told apart.
    pub reasoning: Option<u64>,
    /// Of the first answer.
    pub times: Option<Times>,
}

impl UsageCount {
    /// Nothing made yet.
    fn of(spec: &GenerationSpec) -> Self {
        let knows_reasoning = |output: &OutputOptions| output.formats.reasoning.is_some();
        Self {
            prompt: spec.prompts.iter().map(|prompt| prompt.len() as u64).sum(),
            reasoning: spec.output.as_ref().is_some_and(knows_reasoning).then_some(0),
            times: Some(Times::new(spec.arrival)),
            ..Self::default()
        }
    }

    pub(crate) fn metrics(&self, are_wanted: bool) -> Option<RequestMetrics> {
        self.times.filter(|_| are_wanted).map(|times| times.metrics())
    }
}

/// OpenAI's usage object.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
pub(crate) struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: PromptTokensDetails,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<CompletionTokensDetails>,
}

#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
struct PromptTokensDetails {
    cached_tokens: u64,
}

#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
struct CompletionTokensDetails {
    /// Where reasoning is told apart.
    #[serde(rename = "reasoning_tokens", skip_serializing_if = "Option::is_none")]
    reasoning: Option<u64>,
    /// Of guessed tokens, where some were verified. Those that were wrong are no completion tokens.
    #[serde(rename = "accepted_prediction_tokens", skip_serializing_if = "Option::is_none")]
    accepted: Option<u64>,
    #[serde(rename = "rejected_prediction_tokens", skip_serializing_if = "Option::is_none")]
    rejected: Option<u64>,
}

impl CompletionTokensDetails {
    fn of(count: UsageCount) -> Option<Self> {
        let has_drafts = count.drafts > 0;
        (has_drafts || count.reasoning.is_some()).then(|| Self {
            reasoning: count.reasoning,
            accepted: has_drafts.then_some(count.right_drafts),
            rejected: has_drafts.then(|| count.drafts - count.right_drafts),
        })
    }
}

impl From<UsageCount> for Usage {
    fn from(count: UsageCount) -> Self {
        Self {
            prompt_tokens: count.prompt,
            total_tokens: count.prompt + count.completion,
            completion_tokens: count.completion,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: count.cached },
            completion_tokens_details: CompletionTokensDetails::of(count),
        }
    }
}

impl Generation {
    /// Queues every request, or none: after a refusal those taken before are cancelled.
    pub(crate) async fn submit(
        state: &SharedState,
        model: &Arc<ServedModel>,
        spec: &GenerationSpec,
    ) -> Result<Self, ApiError> {
        let limit = model.engine.info().max_num_queued;
        if spec.prompts.len().saturating_mul(spec.n as usize) > limit as usize {
            let message = format!(
                "{} prompts with n {} are more answers than can wait at once: {limit} \
                 (--max-num-queued-reqs)",
                spec.prompts.len(),
                spec.n
            );
            return Err(ApiError::invalid("n", message));
        }
        let in_flight = InFlight::new(Arc::clone(state));
        let caller = Caller::current(state);
        let usage = UsageCount::of(spec);
        let num_answers = spec.prompts.len() as u32 * spec.n;
        let (admission, waiting) = caller.admit(state, model, num_answers, usage.prompt)?;
        let constraint = match &spec.structured_output {
            Some(asked) => Some(model.grammars.compile(asked, &state.config.limits).await?),
            None => None,
        };
        let mut choices = SelectAll::new();
        for prompt in &spec.prompts {
            for answer in 0..spec.n {
                let mut params = spec.params.clone();
                params.constraint.clone_from(&constraint);
                params.seed = params.seed.map(|seed| seed.wrapping_add(u64::from(answer)));
                let request = Request {
                    prompt: prompt.clone(),
                    params,
                    pooling: None,
                    tenant: caller.tenant.of_engine(),
                    priority: spec.priority,
                    cache_salt: spec.cache_salt.clone(),
                    arrival: spec.arrival,
                };
                let stream = model
                    .engine
                    .generate_on(spec.replica, request)
                    .map_err(|e| refusal(state, model, e))?;
                choices.push(Choice::new(
                    choices.len(),
                    stream,
                    model,
                    spec,
                    &state.config.limits,
                )?);
            }
        }
        metrics::record_num_choices(&model.name, spec.n);
        let recording = spec.record(state, model, &caller);
        Ok(Self {
            num_choices: choices.len(),
            lengths: vec![0; choices.len()],
            choices,
            n: spec.n as usize,
            usage,
            caller,
            recording,
            arrival: spec.arrival,
            waiting: waiting.into_iter().map(Some).collect(),
            aborting: state.aborting(),
            model: Arc::clone(model),
            state: Arc::clone(state),
            _admission: admission,
            _in_flight: in_flight,
        })
    }

    /// The next step of some answer, with its index; `None` when all are over.
    pub(crate) async fn next(&mut self) -> Option<(usize, ChoiceEvent)> {
        if self.choices.is_empty() {
            return None;
        }
        let next = tokio::select! {
            biased;
            event = self.choices.next() => Some(event),
            _ = self.aborting.wait_for(|&aborting| aborting) => None,
            () = Caller::out_of_time(self.caller.deadline) => None,
        };
        let event = next.unwrap_or_else(|| self.end_one());
        if let Some((index, event)) = &event {
            self.count(*index, event);
        }
        event
    }

    /// Everything, once it is there: answers in the order of their index.
    pub(crate) async fn collect(mut self) -> Result<(Vec<Answer>, UsageCount), ApiError> {
        let mut answers: Vec<Answer> = Vec::new();
        answers.resize_with(self.num_choices, Answer::default);
        while let Some((index, event)) = self.next().await {
            let answer = &mut answers[index];
            match event {
                ChoiceEvent::Started(started) => answer.prompt_logprobs = started.prompt_logprobs,
                ChoiceEvent::Delta(delta) => {
                    answer.text.push_str(&delta.text);
                    delta.events.into_iter().for_each(|event| answer.message.add(event));
                    answer.tokens.extend(delta.tokens);
                    answer.finish = delta.finish.or(answer.finish.take());
                }
                ChoiceEvent::Failed(error) => return Err(error),
            }
        }
        Ok((answers, self.usage))
    }

    /// Ends one of the answers still running where it is; `None` when all are over.
    pub(crate) fn abort_next(&mut self) -> Option<(usize, ChoiceEvent)> {
        let event = self.abort_one();
        if let Some((index, event)) = &event {
            self.count(*index, event);
        }
        event
    }

    pub(crate) fn num_choices(&self) -> usize {
        self.num_choices
    }

    pub(crate) fn usage(&self) -> UsageCount {
        self.usage
    }

    /// The server is going down, or time is up: who has got nothing is told so, other answers end where they are.
    fn end_one(&mut self) -> Option<(usize, ChoiceEvent)> {
        let is_late = self.caller.deadline.is_some_and(|deadline| deadline <= Instant::now());
        let has_begun = self.waiting.iter().any(Option::is_none);
        match is_late && !has_begun {
            true => Some((0, ChoiceEvent::Failed(ApiError::deadline_exceeded()))),
            false => self.abort_one(),
        }
    }

    /// The answers end where they are.
    fn abort_one(&mut self) -> Option<(usize, ChoiceEvent)> {
        let mut choices: Vec<Choice> = std::mem::take(&mut self.choices).into_iter().collect();
        let mut last = choices.pop()?;
        let event = last.abort();
        self.choices.extend(choices);
        Some((last.index(), event))
    }

    fn count(&mut self, index: usize, event: &ChoiceEvent) {
        if matches!(event, ChoiceEvent::Started(_)) && self.waiting[index].take().is_some() {
            self.caller.tenant.record_first_token(self.arrival.elapsed());
        }
        if let Some(recording) = &mut self.recording {
            record(recording, event);
        }
        if let Some(times) = self.usage.times.as_mut().filter(|_| index == 0) {
            match event {
                ChoiceEvent::Started(started) => times.start(started),
                ChoiceEvent::Delta(delta) => {
                    times.count(delta.tokens.len() as u64, &delta.drafts, Instant::now());
                }
                ChoiceEvent::Failed(_) => {}
            }
        }
        match event {
            ChoiceEvent::Started(started) if index.is_multiple_of(self.n) => {
                self.usage.cached += u64::from(started.num_cached_tokens);
            }
            ChoiceEvent::Started(_) => {}
            ChoiceEvent::Delta(delta) => {
                self.usage.completion += delta.tokens.len() as u64;
                self.usage.drafts += delta.drafts.num_tokens;
                self.usage.right_drafts += delta.drafts.num_right.iter().sum::<u64>();
                self.caller.tenant.count_generated(delta.tokens.len() as u64);
                self.lengths[index] += delta.tokens.len() as u32;
                if let Some(count) = &mut self.usage.reasoning {
                    *count += delta.num_reasoning_tokens;
                }
                if delta.finish.is_some() {
                    self.state.drain_rate.record(Instant::now());
                }
            }
            ChoiceEvent::Failed(_) => self.choices = SelectAll::new(),
        }
    }
}

impl GenerationSpec {
    fn record(
        &self,
        state: &SharedState,
        model: &ServedModel,
        caller: &Caller,
    ) -> Option<Recording> {
        let operation = if self.output.is_some() { "chat" } else { "text_completion" };
        let exporter = state.config.traces.as_ref();
        let named = (operation, &*model.name);
        let mut recording = Recording::begin(exporter, caller.trace, named, self.arrival)?;
        recording.asked(&self.params, self.n);
        Some(recording)
    }
}

fn record(recording: &mut Recording, event: &ChoiceEvent) {
    match event {
        ChoiceEvent::Started(started) => recording.started(started.queue),
        ChoiceEvent::Delta(Delta { finish: Some(finish), .. }) => recording.finished(finish.reason),
        ChoiceEvent::Delta(_) => {}
        ChoiceEvent::Failed(error) => recording.failed(error.code.unwrap_or(error.kind)),
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if let Some(recording) = &mut self.recording {
            recording.used((self.usage.prompt, self.usage.completion, self.usage.cached));
        }
        for answers in self.lengths.chunks(self.n.max(1)) {
            let longest = answers.iter().copied().max().unwrap_or(0);
            metrics::record_longest_answer(&self.model.name, longest);
        }
    }
}

/// The engine's refusal as an answer.
pub(crate) fn refusal(state: &SharedState, model: &ServedModel, error: SubmitError) -> ApiError {
    if matches!(error, SubmitError::QueueFull { .. }) {
        metrics::admission_rejections(&model.name).increment(1);
    }
    ApiError::from_submit(error, state.retry_after(model))
}
