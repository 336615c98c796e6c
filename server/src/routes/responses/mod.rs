//! `POST /v1/responses`, OpenAI's newer API over the same chats, and what is done with responses that are stored.
//!
//! A request is written in the fields of `/v1/chat/completions` (`translate.rs`, `items.rs`) and takes its way; the answer grows
//! as items (`output.rs`), whole and streamed alike (`writer.rs`).

mod items;
mod object;
mod output;
mod store;
mod stored;
mod translate;
mod writer;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

pub(crate) use store::ResponseStore;
pub(crate) use stored::{delete, input_items, retrieve};
pub(crate) use translate::{UNSUPPORTED, WITHOUT_EFFECT};

use super::prepare::{Converted, Incoming, prepare};
use super::truncation::TRUNCATED;
use super::{chat_completions, loading};
use crate::app::{SharedState, unix_time};
use crate::error::{ApiError, shortened};
use crate::generation::sse::{self, Form, SseBuffer, SseInput};
use crate::generation::{Generation, GenerationSpec, UsageCount};
use crate::http;
use crate::http::body::ContentType;
use crate::model::ServedModel;
use object::Frame;
use writer::Writer;

/// A checked request.
struct Asked {
    frame: Frame,
    model: Arc<ServedModel>,
    spec: GenerationSpec,
    stream: bool,
    /// Messages that were left out.
    num_dropped: u32,
}

/// Failures of answers are events of theirs, and the last event says itself that it is the last.
const FORM: Form = Form {
    ping: sse::OPENAI.ping,
    error: |error, out| {
        let param = error.param.as_deref();
        out.push_named(&json!({
            "type": "error", "code": error.code, "message": error.message, "param": param,
            "sequence_number": 0,
        }));
    },
    renders_failures: true,
    end: "",
};

pub(crate) async fn create(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, ApiError> {
    let incoming = Incoming::read(&state, request, ContentType::Json).await?;
    loading::respond(state, incoming, &FORM, answer).await
}

async fn answer(state: SharedState, incoming: Incoming) -> Result<Response, ApiError> {
    let Asked { frame, model, spec, stream, num_dropped } =
        incoming.convert(&state, convert).await?;
    let mut generation =
        Generation::submit(&state, &model, &spec).await.map_err(translate::blame)?;
    let mut headers = HeaderMap::new();
    if num_dropped > 0 {
        headers.insert(TRUNCATED, HeaderValue::from(num_dropped));
    }
    let mut writer = Writer::new(frame, Arc::clone(&state));
    let mut response = if stream {
        let render = move |input: SseInput, usage: UsageCount, out: &mut SseBuffer| {
            if let SseInput::Event(_, event) = input {
                writer.take(event, usage).iter().for_each(|event| out.push_named(event));
            }
        };
        sse::respond(&FORM, generation, state.config.sse_keep_alive_interval, render)
    } else {
        while let Some((_, event)) = generation.next().await {
            writer.take(event, generation.usage());
        }
        http::json(StatusCode::OK, &writer.finished()?)
    };
    response.headers_mut().extend(headers);
    Ok(response)
}

/// The tokens of the prompt, which is not answered.
pub(crate) async fn input_tokens(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, ApiError> {
    let asked = prepare(&state, request, convert).await?;
    let count: usize = asked.spec.prompts.iter().map(Vec::len).sum();
    let body = json!({"object": "response.input_tokens", "input_tokens": count});
    Ok(http::json(StatusCode::OK, &body))
}

fn convert(incoming: &Incoming) -> Result<Asked, ApiError> {
    let asked = translate::read(&incoming.body)?;
    let mut all = earlier(incoming, asked.previous.as_deref())?;
    let num_earlier = all.len();
    all.extend(asked.input.iter().cloned());
    let messages = items::messages_of(asked.instructions.as_deref(), &all, num_earlier)?;
    let (Converted { model, spec, .. }, num_dropped) =
        fitting(incoming, asked.chat, messages, asked.truncates).map_err(translate::blame)?;
    let frame = Frame {
        id: format!("resp_{}", uuid::Uuid::new_v4().simple()),
        created: unix_time(),
        model: asked.model.unwrap_or_else(|| model.name.clone()),
        echoed: asked.echoed,
        temperature: spec.params.temperature,
        top_p: spec.params.top_p,
        caller: incoming.caller,
        is_stored: asked.store,
        input: asked.input,
        conversation: if asked.store { all } else { Vec::new() },
    };
    Ok(Asked { frame, model, spec, stream: asked.stream, num_dropped })
}

/// The items of a stored response and of all before it.
fn earlier(incoming: &Incoming, id: Option<&str>) -> Result<Vec<Value>, ApiError> {
    let Some(id) = id else { return Ok(Vec::new()) };
    if let Some(found) = incoming.state.responses.find(incoming.caller, id) {
        return Ok(found.conversation());
    }
    let message = format!(
        "the response {:?} is not here: only responses to store: true are kept, the newest of them",
        shortened(id)
    );
    let error = ApiError::invalid("previous_response_id", message);
    Err(ApiError { code: Some("previous_response_not_found"), ..error })
}

/// The chat of `messages`; with `truncates` the oldest of them are left out until the rest fits. How many those are.
fn fitting(
    incoming: &Incoming,
    mut chat: serde_json::Map<String, Value>,
    mut messages: Vec<Value>,
    truncates: bool,
) -> Result<(Converted, u32), ApiError> {
    let mut num_dropped = 0;
    loop {
        chat.insert("messages".into(), messages.clone().into());
        let body = Value::Object(chat.clone()).to_string();
        let converted = chat_completions::spec_of(&incoming.with_body(body))?;
        let (spec, limits) = (&converted.spec, &converted.model.engine.info().limits);
        let window = limits.max_model_len.saturating_sub(spec.params.max_tokens.unwrap_or(1));
        let num_tokens = spec.prompts.iter().map(Vec::len).sum::<usize>();
        let excess = num_tokens.saturating_sub(window as usize);
        if !truncates || excess == 0 {
            return Ok((converted, num_dropped));
        }
        let dropped = items::drop_oldest(&mut messages, excess, num_tokens);
        if dropped == 0 {
            // What is left cannot be spared; the refusal says how long it is.
            return Ok((converted, num_dropped));
        }
        num_dropped += dropped;
    }
}
