//! `POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's API over the same chats.
//!
//! A request is written in the fields of `/v1/chat/completions` (`translate.rs`) and takes its way; what differs is the answer.

mod error;
mod stream;
mod translate;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::chat_completions;
use super::loading;
use super::prepare::{Converted, Incoming, prepare};
use crate::app::SharedState;
use crate::error::ApiError;
use crate::generation::{Finish, Generation, GenerationSpec, StopReason, UsageCount};
use crate::http;
use crate::http::body::ContentType;
use crate::model::ServedModel;
use crate::text::ParsedMessage;
use error::AnthropicError;
pub(crate) use translate::{UNSUPPORTED, WITHOUT_EFFECT};

/// A checked request.
struct Message {
    id: String,
    /// The model as the client called it.
    name: String,
    model: Arc<ServedModel>,
    spec: GenerationSpec,
    stream: bool,
}

pub(crate) async fn messages(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, AnthropicError> {
    let incoming = Incoming::read(&state, request, ContentType::Json).await?;
    Ok(loading::respond(state, incoming, &stream::FORM, answer).await?)
}

async fn answer(state: SharedState, incoming: Incoming) -> Result<Response, ApiError> {
    let message = incoming.convert(&state, convert).await?;
    let generation = Generation::submit(&state, &message.model, &message.spec).await?;
    if message.stream {
        let keep_alive = state.config.sse_keep_alive_interval;
        return Ok(stream::respond(message, generation, keep_alive));
    }
    let (mut answers, usage) = generation.collect().await?;
    let answer = answers.pop().unwrap_or_default();
    let mut body = message.envelope(usage);
    body["content"] = content_of(answer.message);
    let (reason, sequence) = stop_reason(answer.finish.as_ref());
    body["stop_reason"] = reason.into();
    body["stop_sequence"] = sequence;
    Ok(http::json(StatusCode::OK, &body))
}

/// The tokens of the prompt, which is not answered.
pub(crate) async fn count_tokens(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, AnthropicError> {
    let message = prepare(&state, request, convert_to_count).await?;
    let count: usize = message.spec.prompts.iter().map(Vec::len).sum();
    Ok(http::json(StatusCode::OK, &json!({"input_tokens": count})))
}

fn convert(incoming: &Incoming) -> Result<Message, ApiError> {
    convert_as(incoming, true)
}

fn convert_to_count(incoming: &Incoming) -> Result<Message, ApiError> {
    convert_as(incoming, false)
}

fn convert_as(incoming: &Incoming, needs_max_tokens: bool) -> Result<Message, ApiError> {
    let translated = translate::chat_body(&incoming.body, needs_max_tokens)?;
    let chat = incoming.with_body(translated.body.to_string());
    let Converted { model, spec, .. } = chat_completions::spec_of(&chat)?;
    let id = format!("msg_{}", uuid::Uuid::new_v4().simple());
    let name = translated.model.unwrap_or_else(|| model.name.clone());
    Ok(Message { id, name, model, spec, stream: translated.stream })
}

impl Message {
    /// The message without content, as it is before and, with other numbers, after its answer.
    fn envelope(&self, usage: UsageCount) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.name,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": {
                "input_tokens": usage.prompt.saturating_sub(usage.cached),
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": usage.cached,
                "output_tokens": usage.completion,
            },
        })
    }
}

/// A block for what was thought, one for what is said, one for each call.
fn content_of(said: ParsedMessage) -> Value {
    let mut blocks = Vec::new();
    if !said.reasoning.is_empty() {
        blocks.push(json!({"type": "thinking", "thinking": said.reasoning, "signature": ""}));
    }
    if !said.content.is_empty() || said.tool_calls.is_empty() {
        blocks.push(json!({"type": "text", "text": said.content}));
    }
    for call in said.tool_calls {
        let input: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
        blocks.push(json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input}));
    }
    blocks.into()
}

/// Why the answer ended, and the text that ended it.
fn stop_reason(finish: Option<&Finish>) -> (&'static str, Value) {
    let Some(finish) = finish else { return ("end_turn", Value::Null) };
    match (&finish.stop_reason, finish.reason) {
        (Some(StopReason::Text(text)), _) => ("stop_sequence", text.as_str().into()),
        (_, "length") => ("max_tokens", Value::Null),
        (_, "tool_calls") => ("tool_use", Value::Null),
        _ => ("end_turn", Value::Null),
    }
}
