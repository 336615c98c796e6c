//! `POST /api/chat`.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use quire_engine::request::TokenId;
use serde_json::{Value, json};

use super::durations::Clock;
use super::error::OllamaError;
use super::incoming::{does_not_support, prepare, refuse_images};
use super::lines::{Job, Shape};
use super::options::Options;
use crate::app::{SharedState, unix_time};
use crate::error::ApiError;
use crate::generation::GenerationSpec;
use crate::http::fields::Fields;
use crate::limits::ServerLimits;
use crate::model::ServedModel;
use crate::routes::messages;
use crate::routes::prepare::Incoming;
use crate::routes::tools;
use crate::routes::truncation::TRUNCATED;
use crate::structured::{Kind, StructuredOutput};
use crate::text::{ChatInput, OutputOptions, ToolRequest};

pub(crate) async fn chat(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, OllamaError> {
    let prepared = prepare(&state, request, is_empty, convert).await?;
    prepared.answer(&state, ("message", json!({"role": "assistant", "content": ""}))).await
}

/// Without messages the model is only to be loaded.
fn is_empty(fields: &mut Fields<'_>) -> bool {
    fields.take_raw("messages").is_none_or(|raw| raw.get() == "[]")
}

/// Parses, checks, renders and tokenizes.
fn convert(incoming: &Incoming, name: &str) -> Result<Job, ApiError> {
    let (mut fields, model) = incoming.fields()?;
    model.engine.info().limits.check_generates().map_err(|_| does_not_support(name, "chat"))?;
    let limits = &incoming.state.config.limits;
    let options = Options::read(&model, fields.take("options", "an object")?.unwrap_or_default())?;
    let messages = take_messages(&mut fields, name, &model, limits)?;
    let common = Common::take(&mut fields)?;
    let mut chat = ChatInput {
        messages,
        add_generation_prompt: true,
        unix_seconds: unix_time() as i64,
        ..ChatInput::default()
    };
    let tools = take_tools(&mut fields, &mut chat, limits)?;
    take_think(&mut fields, &mut chat, name, &model)?;
    let ((prompt, output), headers) = fitting_prompt(&model, chat, &tools, &options, &common)?;
    fields.finish();
    let mut spec = common.spec(&model, options, prompt, incoming, limits)?;
    spec.output = Some(output);
    Ok(Job {
        spec,
        stream: common.stream,
        shape: Shape::Chat,
        name: name.to_owned(),
        model,
        clock: Clock::new(incoming.arrival, incoming.load_time),
        logprobs: common.logprobs,
        num_calls: 0,
        headers,
    })
}

/// The fields that `/api/chat` and `/api/generate` share.
pub(super) struct Common {
    pub(super) stream: bool,
    pub(super) truncate: bool,
    pub(super) logprobs: bool,
    top_logprobs: u32,
    structured_output: Option<StructuredOutput>,
}

impl Common {
    pub(super) fn take(fields: &mut Fields<'_>) -> Result<Self, ApiError> {
        // The context never shifts: an answer ends where it is full.
        fields.take_bool("shift")?;
        let format: Option<Value> = fields.take("format", "\"json\" or a JSON schema")?;
        let kind = match format {
            None => None,
            Some(Value::String(text)) if text.is_empty() => None,
            Some(Value::String(text)) if text == "json" => Some(Kind::JsonObject),
            Some(Value::Object(schema)) => Some(Kind::Json(Value::Object(schema))),
            Some(_) => {
                let message = "format must be \"json\" or a JSON schema, an object";
                return Err(ApiError::invalid("format", message));
            }
        };
        Ok(Self {
            structured_output: kind.map(|kind| StructuredOutput::new("format", kind)),
            stream: fields.take_bool("stream")?.unwrap_or(true),
            truncate: fields.take_bool("truncate")?.unwrap_or(false),
            logprobs: fields.take_bool("logprobs")?.unwrap_or(false),
            top_logprobs: fields.take_u32("top_logprobs")?.unwrap_or(0),
        })
    }

    /// What the engine is asked; the answer ends where `num_ctx` is full.
    pub(super) fn spec(
        &self,
        model: &ServedModel,
        options: Options,
        prompt: Vec<TokenId>,
        incoming: &Incoming,
        limits: &ServerLimits,
    ) -> Result<GenerationSpec, ApiError> {
        let mut text = options.text();
        text.check(limits)?;
        text.every_token = self.stream && self.logprobs;
        let mut params = options.sampling.resolve(model)?;
        if let Some(window) = options.num_ctx {
            let left = window.saturating_sub(prompt.len() as u32).max(1);
            params.max_tokens = Some(params.max_tokens.map_or(left, |tokens| tokens.min(left)));
        }
        params.logprobs = self.logprobs.then_some(self.top_logprobs);
        Ok(GenerationSpec {
            prompts: vec![prompt],
            n: 1,
            params,
            structured_output: self.structured_output.clone(),
            text,
            output: None,
            priority: 0,
            replica: None,
            cache_salt: None,
            arrival: incoming.arrival,
        })
    }
}

/// Tools in OpenAI's form; without any the list may be empty.
fn take_tools(
    fields: &mut Fields<'_>,
    chat: &mut ChatInput,
    limits: &ServerLimits,
) -> Result<ToolRequest, ApiError> {
    if fields.peek_raw("tools").is_some_and(|raw| raw.get() == "[]") {
        fields.take_raw("tools");
    }
    tools::take_tools(fields, chat, limits)
}

/// `think`, which a model that cannot is not asked for.
pub(super) fn take_think(
    fields: &mut Fields<'_>,
    chat: &mut ChatInput,
    name: &str,
    model: &ServedModel,
) -> Result<(), ApiError> {
    let asks = fields.peek_raw("think").is_some_and(|raw| !["false", "null"].contains(&raw.get()));
    if asks && model.output_formats.reasoning.is_none() {
        return Err(does_not_support(name, "thinking"));
    }
    messages::take_thinking(fields, &mut chat.kwargs)
}

/// The conversation as templates take it, with what the model's own settings put before it.
fn take_messages(
    fields: &mut Fields<'_>,
    name: &str,
    model: &ServedModel,
    limits: &ServerLimits,
) -> Result<Vec<Value>, ApiError> {
    let given: Vec<Value> = fields.take("messages", "a list of objects")?.unwrap_or_default();
    let has_system = given.first().is_some_and(|message| message["role"] == "system");
    let mut all = model.settings.messages.clone();
    if let Some(system) = model.settings.system.as_ref().filter(|_| !has_system) {
        all.insert(0, json!({"role": "system", "content": system}));
    }
    for message in given {
        refuse_images(name, message.get("images"))?;
        all.push(converted(message));
    }
    messages::checked(all, limits)
}

/// A message in OpenAI's words.
fn converted(mut message: Value) -> Value {
    let Some(fields) = message.as_object_mut() else { return message };
    fields.remove("images");
    for (theirs, ours) in [("thinking", "reasoning_content"), ("tool_name", "name")] {
        if let Some(value) = fields.remove(theirs).filter(|value| *value != "") {
            fields.insert(ours.into(), value);
        }
    }
    if fields.get("tool_call_id").is_some_and(|id| *id == "") {
        fields.remove("tool_call_id");
    }
    if let Some(Value::Array(calls)) = fields.get_mut("tool_calls") {
        for call in calls.iter_mut().filter_map(Value::as_object_mut) {
            call.entry("type").or_insert_with(|| "function".into());
        }
    }
    message
}

/// The tokens of a conversation within the window; with `truncate` its oldest messages go until it fits, which the headers tell.
pub(super) fn fitting_prompt(
    model: &ServedModel,
    mut chat: ChatInput,
    tools: &ToolRequest,
    options: &Options,
    common: &Common,
) -> Result<((Vec<TokenId>, OutputOptions), HeaderMap), ApiError> {
    let mut headers = HeaderMap::new();
    let is_held = common.structured_output.is_some();
    let (prompt, output) = model.prepare_chat(&chat, tools.clone(), is_held)?;
    let window = window(model, options);
    if prompt.len() < window {
        return Ok(((prompt, output), headers));
    }
    let is_system = |message: &Value| message["role"] == "system";
    let mut num_dropped = 0_u32;
    let mut num_tokens = prompt.len();
    while common.truncate && num_tokens >= window {
        // The last message is what is asked.
        let end = chat.messages.len().saturating_sub(1);
        let Some(oldest) = chat.messages[..end].iter().position(|it| !is_system(it)) else { break };
        chat.messages.remove(oldest);
        num_dropped += 1;
        let shorter = model.prepare_chat(&chat, tools.clone(), is_held)?;
        num_tokens = shorter.0.len();
        if num_tokens < window {
            headers.insert(TRUNCATED, HeaderValue::from(num_dropped));
            return Ok((shorter, headers));
        }
    }
    Err(too_long(prompt.len(), window, options))
}

/// Tokens of prompt and answer together.
pub(super) fn window(model: &ServedModel, options: &Options) -> usize {
    let own = model.engine.info().limits.max_model_len;
    options.num_ctx.map_or(own, |asked| asked.min(own)) as usize
}

pub(super) fn too_long(num_tokens: usize, window: usize, options: &Options) -> ApiError {
    let whose = match options.num_ctx {
        Some(asked) if asked as usize == window => "num_ctx",
        _ => "the model's context",
    };
    let message = format!(
        "the prompt has {num_tokens} tokens, but {whose} is {window} with the answer; shorten it, or ask for \
         truncate: true to leave out the oldest messages"
    );
    let mut error = ApiError::invalid("messages", message);
    error.code = Some("context_length_exceeded");
    error
}
