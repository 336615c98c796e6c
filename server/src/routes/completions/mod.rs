//! `POST /v1/completions`.

mod convert;
mod types;
mod validate;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use quire_engine::request::{TokenId, TokenLogprobs, TokenOutput};

use types::{Choice, Chunk, ChunkChoice, Completion};
use validate::CompletionRequest;
pub(crate) use validate::UNSUPPORTED;

use super::FINGERPRINT;
use crate::app::SharedState;
use crate::error::ApiError;
use crate::generation::logprobs::{CompletionLogprobs, TokenNames, prompt_logprobs};
use crate::generation::sse::{self, SseBuffer, SseInput};
use crate::generation::{Answer, ChoiceEvent, Delta, Generation, UsageCount};
use crate::http;
use crate::http::body::ContentType;
use crate::model::ServedModel;
use crate::openapi::doc::{Answer as DocAnswer, schema_of};
use crate::routes::loading;
use crate::routes::prepare::{Converted, Incoming};

/// For the document of the API.
pub(crate) const ANSWER: DocAnswer =
    DocAnswer::JsonOrStream(schema_of::<Completion<'static>>, schema_of::<Chunk<'static>>);

pub(crate) async fn completions(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, ApiError> {
    let incoming = Incoming::read(&state, request, ContentType::Json).await?;
    loading::respond(state, incoming, &sse::OPENAI, answer).await
}

async fn answer(state: SharedState, incoming: Incoming) -> Result<Response, ApiError> {
    let (frame, spec) = incoming.convert(&state, convert::convert).await?;
    let generation = Generation::submit(&state, &frame.model, &spec).await?;
    if frame.request.common.stream {
        return Ok(frame.stream(&state, generation));
    }
    let (answers, usage) = generation.collect().await?;
    Ok(http::json(StatusCode::OK, &frame.completion(answers, usage)))
}

/// What a completion comes to, for routes that answer in a form of their own.
pub(super) fn spec_of(incoming: &Incoming) -> Result<Converted, ApiError> {
    let (frame, spec) = convert::convert(incoming)?;
    Ok(Converted { id: frame.id, model: frame.model, spec })
}

/// What all parts of one response share.
struct Frame {
    id: String,
    created: u64,
    model_name: String,
    model: Arc<ServedModel>,
    prompts: Vec<Vec<TokenId>>,
    request: CompletionRequest,
    /// Answers say how long they took.
    has_metrics: bool,
}

impl Frame {
    fn completion(&self, answers: Vec<Answer>, usage: UsageCount) -> Completion<'_> {
        let answers = best(answers, self.request.best_of as usize, self.request.common.n as usize);
        Completion {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.model_name,
            choices: answers.into_iter().enumerate().map(|(i, a)| self.choice(i, a)).collect(),
            service_tier: None,
            system_fingerprint: FINGERPRINT,
            kv_transfer_params: None,
            metrics: usage.metrics(self.has_metrics),
            usage: self.shown_usage(usage).into(),
        }
    }

    fn choice(&self, index: usize, mut answer: Answer) -> Choice<'_> {
        let prompt = self.prompt(index);
        self.hide_unasked(&mut answer.text, &mut answer.tokens);
        let text =
            if self.request.echo { self.prompt_text(prompt) + &answer.text } else { answer.text };
        let prompt_logprobs = self
            .request
            .prompt_logprobs
            .map(|count| prompt_logprobs(self.names(), prompt, &answer.prompt_logprobs, count));
        let finish = answer.finish;
        Choice {
            index,
            text,
            logprobs: self.logprobs(prompt, &answer.prompt_logprobs, &answer.tokens),
            finish_reason: finish.as_ref().map_or("abort", |finish| finish.reason),
            stop_reason: finish.and_then(|finish| finish.stop_reason),
            token_ids: self.token_ids(&answer.tokens),
            prompt_logprobs,
            prompt_token_ids: self.request.common.return_token_ids.then_some(prompt),
        }
    }

    fn logprobs(
        &self,
        prompt: &[TokenId],
        prompt_known: &[Option<TokenLogprobs>],
        tokens: &[TokenOutput],
    ) -> Option<CompletionLogprobs> {
        let mut logprobs = CompletionLogprobs::new(self.request.logprobs?, 0);
        if self.request.echo {
            for (&token, known) in prompt.iter().zip(prompt_known) {
                logprobs.push(self.names(), token, known.as_ref());
            }
        }
        logprobs.extend(self.names(), tokens);
        Some(logprobs)
    }

    fn stream(self, state: &SharedState, generation: Generation) -> Response {
        let options = self.request.common.stream_options;
        let mut num_chars = vec![0; generation.num_choices()];
        let render = move |input: SseInput, usage: UsageCount, out: &mut SseBuffer| {
            let usage = self.shown_usage(usage);
            let running = options.continuous_usage_stats && options.include_usage;
            let choice = match input {
                SseInput::Event(index, ChoiceEvent::Started(started)) => {
                    let known = &started.prompt_logprobs;
                    match self.opening(index, known, &mut num_chars[index]) {
                        Some(choice) => choice,
                        None => return,
                    }
                }
                SseInput::Event(index, ChoiceEvent::Delta(delta)) => {
                    self.chunk_choice(index, delta, &mut num_chars[index])
                }
                SseInput::End if options.include_usage => {
                    let mut chunk = self.chunk(None, Some(usage));
                    chunk.metrics = usage.metrics(self.has_metrics);
                    out.push(&chunk);
                    return;
                }
                SseInput::End | SseInput::Event(_, ChoiceEvent::Failed(_)) => return,
            };
            out.push(&self.chunk(Some(choice), running.then_some(usage)));
        };
        sse::respond(&sse::OPENAI, generation, state.config.sse_keep_alive_interval, render)
    }

    fn chunk(&self, choice: Option<ChunkChoice>, usage: Option<UsageCount>) -> Chunk<'_> {
        Chunk {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.model_name,
            system_fingerprint: FINGERPRINT,
            choices: choice.into_iter().collect(),
            usage: usage.map(Into::into),
            metrics: None,
        }
    }

    /// The chunk before the answer, where the prompt is to be shown.
    fn opening(
        &self,
        index: usize,
        known: &[Option<TokenLogprobs>],
        num_chars: &mut usize,
    ) -> Option<ChunkChoice> {
        let has_ids = self.request.common.return_token_ids;
        if !self.request.echo && !has_ids {
            return None;
        }
        let prompt = self.prompt(index);
        let logprobs = self.request.logprobs.filter(|_| self.request.echo).map(|num_top| {
            let mut logprobs = CompletionLogprobs::new(num_top, 0);
            for (&token, known) in prompt.iter().zip(known) {
                logprobs.push(self.names(), token, known.as_ref());
            }
            *num_chars = logprobs.num_chars();
            logprobs
        });
        Some(ChunkChoice {
            index,
            text: if self.request.echo { self.prompt_text(prompt) } else { String::new() },
            logprobs,
            finish_reason: None,
            stop_reason: None,
            prompt_token_ids: has_ids.then(|| prompt.to_vec()),
            token_ids: None,
        })
    }

    fn chunk_choice(&self, index: usize, mut delta: Delta, num_chars: &mut usize) -> ChunkChoice {
        self.hide_unasked(&mut delta.text, &mut delta.tokens);
        let logprobs = self.request.logprobs.map(|num_top| {
            let mut logprobs = CompletionLogprobs::new(num_top, *num_chars);
            logprobs.extend(self.names(), &delta.tokens);
            *num_chars = logprobs.num_chars();
            logprobs
        });
        ChunkChoice {
            index,
            text: delta.text,
            logprobs,
            finish_reason: delta.finish.as_ref().map(|finish| finish.reason),
            stop_reason: delta.finish.and_then(|finish| finish.stop_reason),
            prompt_token_ids: None,
            token_ids: self.token_ids(&delta.tokens),
        }
    }

    /// With `max_tokens: 0` one token is generated all the same, to get the prompt computed, and not shown.
    fn hide_unasked(&self, text: &mut String, tokens: &mut Vec<TokenOutput>) {
        if self.request.max_tokens == 0 {
            text.clear();
            tokens.clear();
        }
    }

    fn shown_usage(&self, usage: UsageCount) -> UsageCount {
        match self.request.max_tokens {
            0 => UsageCount { completion: 0, ..usage },
            _ => usage,
        }
    }

    fn prompt(&self, index: usize) -> &[TokenId] {
        &self.prompts[index / self.request.common.n as usize]
    }

    fn prompt_text(&self, prompt: &[TokenId]) -> String {
        self.model.decode(prompt, self.request.common.text.skip_special_tokens)
    }

    fn names(&self) -> TokenNames<'_> {
        TokenNames { model: &self.model, as_ids: self.request.common.tokens_as_ids }
    }

    fn token_ids(&self, tokens: &[TokenOutput]) -> Option<Vec<TokenId>> {
        let asked = self.request.common.return_token_ids;
        asked.then(|| tokens.iter().map(|output| output.token).collect())
    }
}

/// Of each `best_of` answers to a prompt the `n` whose tokens are likeliest on average, best first.
fn best(mut answers: Vec<Answer>, best_of: usize, n: usize) -> Vec<Answer> {
    if best_of == n {
        return answers;
    }
    let mean = |answer: &Answer| {
        let known = answer.tokens.iter().filter_map(|output| output.logprobs.as_ref());
        let sum: f32 = known.map(|known| known.logprob).sum();
        sum / answer.tokens.len().max(1) as f32
    };
    let mut kept = Vec::with_capacity(answers.len() / best_of * n);
    while !answers.is_empty() {
        let mut group: Vec<Answer> = answers.drain(..best_of.min(answers.len())).collect();
        group.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        kept.extend(group.into_iter().take(n));
    }
    kept
}
