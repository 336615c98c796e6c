//! `POST /v1/chat/completions`.

mod convert;
mod types;
mod validate;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use quire_engine::request::{TokenId, TokenOutput};

use types::{
    ChatCompletion, Choice, Chunk, ChunkChoice, DeltaMessage, FunctionCall, Message,
    ToolCallMessage,
};
use validate::ChatRequest;
pub(crate) use validate::UNSUPPORTED;

use super::FINGERPRINT;
use crate::app::SharedState;
use crate::error::ApiError;
use crate::generation::logprobs::{ChatLogprobs, TokenNames, prompt_logprobs};
use crate::generation::sse::{self, SseBuffer, SseInput};
use crate::generation::{Answer, ChoiceEvent, Delta, Generation, UsageCount};
use crate::http;
use crate::http::body::ContentType;
use crate::model::ServedModel;
use crate::openapi::doc::{Answer as DocAnswer, schema_of};
use crate::routes::loading;
use crate::routes::prepare::{Converted, Incoming};
use crate::text::{OutputEvent, ParsedMessage};

/// For the document of the API.
pub(crate) const ANSWER: DocAnswer =
    DocAnswer::JsonOrStream(schema_of::<ChatCompletion<'static>>, schema_of::<Chunk<'static>>);

pub(crate) async fn chat_completions(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, ApiError> {
    let incoming = Incoming::read(&state, request, ContentType::Json).await?;
    loading::respond(state, incoming, &sse::OPENAI, answer).await
}

async fn answer(state: SharedState, incoming: Incoming) -> Result<Response, ApiError> {
    let (frame, spec) = incoming.convert(&state, convert::convert).await?;
    let generation = Generation::submit(&state, &frame.model, &spec)
        .await
        .map_err(|error| frame.request.blame(error))?;
    if frame.request.common.stream {
        return Ok(frame.stream(&state, generation));
    }
    let (answers, usage) = generation.collect().await?;
    Ok(http::json(StatusCode::OK, &frame.completion(answers, usage)))
}

/// What a chat comes to, for routes that answer in a form of their own.
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
    prompt: Vec<TokenId>,
    request: ChatRequest,
    /// Answers say how long they took.
    has_metrics: bool,
}

impl Frame {
    fn completion(&self, answers: Vec<Answer>, usage: UsageCount) -> ChatCompletion<'_> {
        let prompt_logprobs =
            self.request.prompt_logprobs.zip(answers.first()).map(|(count, first)| {
                prompt_logprobs(self.names(), &self.prompt, &first.prompt_logprobs, count)
            });
        ChatCompletion {
            id: &self.id,
            object: "chat.completion",
            created: self.created,
            model: &self.model_name,
            choices: answers.into_iter().enumerate().map(|(i, a)| self.choice(i, a)).collect(),
            service_tier: None,
            system_fingerprint: FINGERPRINT,
            usage: usage.into(),
            prompt_logprobs,
            kv_transfer_params: None,
            metrics: usage.metrics(self.has_metrics),
            prompt_token_ids: self.request.common.return_token_ids.then_some(&self.prompt),
            prompt_text: self.prompt_text(),
        }
    }

    fn choice(&self, index: usize, answer: Answer) -> Choice {
        let finish = answer.finish;
        Choice {
            index,
            logprobs: self.logprobs(&answer.tokens),
            token_ids: self.token_ids(&answer.tokens),
            message: self.message(answer.message),
            finish_reason: finish.as_ref().map_or("abort", |finish| finish.reason),
            stop_reason: finish.and_then(|finish| finish.stop_reason),
        }
    }

    fn message(&self, message: ParsedMessage) -> Message {
        let reasoning = Some(message.reasoning)
            .filter(|text| self.request.include_reasoning && !text.is_empty());
        let is_silent = message.content.is_empty() && !message.tool_calls.is_empty();
        let calls = message.tool_calls.into_iter().map(|call| ToolCallMessage {
            id: call.id,
            r#type: "function",
            function: FunctionCall { name: call.name, arguments: call.arguments },
        });
        let echoed = self.request.echoed.clone().unwrap_or_default();
        Message {
            role: "assistant",
            content: (!is_silent).then(|| echoed + &message.content),
            refusal: None,
            annotations: None,
            audio: None,
            function_call: None,
            tool_calls: calls.collect(),
            reasoning_content: reasoning.clone(),
            reasoning,
        }
    }

    fn stream(self, state: &SharedState, generation: Generation) -> Response {
        let options = self.request.common.stream_options;
        let render = move |input: SseInput, usage: UsageCount, out: &mut SseBuffer| {
            let running = options.continuous_usage_stats && options.include_usage;
            let usage_now = running.then(|| usage.into());
            match input {
                SseInput::Event(index, ChoiceEvent::Started(_)) => {
                    let content = self.request.echoed.as_deref().or(Some(""));
                    let role = Some("assistant");
                    let delta = DeltaMessage { role, content, ..DeltaMessage::default() };
                    let mut chunk = self.chunk(Some(ChunkChoice::new(index, delta)));
                    chunk.prompt_token_ids =
                        self.request.common.return_token_ids.then_some(&self.prompt);
                    chunk.prompt_text = self.prompt_text();
                    chunk.usage = usage_now;
                    out.push(&chunk);
                }
                SseInput::Event(index, ChoiceEvent::Delta(delta)) => {
                    for choice in self.chunk_choices(index, &delta) {
                        let mut chunk = self.chunk(Some(choice));
                        chunk.usage = usage_now;
                        out.push(&chunk);
                    }
                }
                SseInput::End if options.include_usage => {
                    let mut chunk = self.chunk(None);
                    chunk.usage = Some(usage.into());
                    chunk.metrics = usage.metrics(self.has_metrics);
                    out.push(&chunk);
                }
                SseInput::End | SseInput::Event(_, ChoiceEvent::Failed(_)) => {}
            }
        };
        sse::respond(&sse::OPENAI, generation, state.config.sse_keep_alive_interval, render)
    }

    fn chunk<'a>(&'a self, choice: Option<ChunkChoice<'a>>) -> Chunk<'a> {
        Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model_name,
            system_fingerprint: FINGERPRINT,
            choices: choice.into_iter().collect(),
            usage: None,
            prompt_token_ids: None,
            prompt_text: None,
            metrics: None,
        }
    }

    /// A chunk for each event; the first one has what is said of the tokens, the last one how the answer ended.
    fn chunk_choices<'a>(&self, index: usize, delta: &'a Delta) -> Vec<ChunkChoice<'a>> {
        let is_shown = |event: &&OutputEvent| {
            self.request.include_reasoning || !matches!(event, OutputEvent::Reasoning(_))
        };
        let events = delta.events.iter().filter(is_shown).map(DeltaMessage::of_event);
        let mut choices: Vec<_> = events.map(|delta| ChunkChoice::new(index, delta)).collect();
        let is_end = delta.finish.is_some();
        let tells_tokens = self.request.logprobs.is_some() || self.request.common.return_token_ids;
        if choices.is_empty() && (is_end || tells_tokens) {
            let content = (!is_end).then_some("");
            choices
                .push(ChunkChoice::new(index, DeltaMessage { content, ..DeltaMessage::default() }));
        }
        if let Some(first) = choices.first_mut() {
            first.logprobs = self.logprobs(&delta.tokens);
            first.token_ids = self.token_ids(&delta.tokens);
        }
        if let Some((last, finish)) = choices.last_mut().zip(delta.finish.as_ref()) {
            last.finish_reason = Some(finish.reason);
            last.stop_reason.clone_from(&finish.stop_reason);
        }
        choices
    }

    fn prompt_text(&self) -> Option<String> {
        self.request.return_prompt_text.then(|| self.model.decode(&self.prompt, false))
    }

    fn names(&self) -> TokenNames<'_> {
        TokenNames { model: &self.model, as_ids: self.request.common.tokens_as_ids }
    }

    fn logprobs(&self, tokens: &[TokenOutput]) -> Option<ChatLogprobs> {
        self.request.logprobs.map(|_| ChatLogprobs::new(self.names(), tokens))
    }

    fn token_ids(&self, tokens: &[TokenOutput]) -> Option<Vec<TokenId>> {
        self.request
            .common
            .return_token_ids
            .then(|| tokens.iter().map(|output| output.token).collect())
    }
}
