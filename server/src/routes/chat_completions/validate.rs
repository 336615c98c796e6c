//! Parses and checks the body of `POST /v1/chat/completions`.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::http::fields::{Fields, NeutralOnly};
use crate::limits::ServerLimits;
use crate::model::ServedModel;
use crate::routes::messages;
use crate::routes::sampling::{CommonFields, take_prompt_logprobs};
use crate::text::ChatInput;

/// A checked request.
pub(super) struct ChatRequest {
    pub chat: ChatInput,
    pub common: CommonFields,
    pub max_tokens: Option<u32>,
    /// What the client calls `max_tokens`.
    pub max_tokens_name: &'static str,
    pub logprobs: Option<u32>,
    pub prompt_logprobs: Option<u32>,
}

/// Chat fields without support, and the values that ask for nothing.
const UNSUPPORTED: &[NeutralOnly] = &[
    NeutralOnly("tools", &[]),
    NeutralOnly("tool_choice", &[r#""none""#, r#""auto""#]),
    NeutralOnly("parallel_tool_calls", &["true", "false"]),
    NeutralOnly("functions", &[]),
    NeutralOnly("function_call", &[r#""none""#, r#""auto""#]),
    NeutralOnly("modalities", &[r#"["text"]"#]),
    NeutralOnly("audio", &[]),
    NeutralOnly("documents", &["[]"]),
    NeutralOnly("chat_template", &[]),
    NeutralOnly("include_reasoning", &["true", "false"]),
    NeutralOnly("echo", &["false"]),
];

const REASONING_EFFORTS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];

impl ChatRequest {
    pub(super) fn take(
        fields: &mut Fields<'_>,
        model: &ServedModel,
        limits: &ServerLimits,
    ) -> Result<Self, ApiError> {
        fields.reject_unsupported(UNSUPPORTED)?;
        let mut chat = messages::take_chat(fields, limits)?;
        take_reasoning_effort(fields, &mut chat.kwargs)?;
        let common = CommonFields::take(fields, model, limits)?;
        let deprecated = fields.take_u32("max_tokens")?;
        let newer = fields.take_u32("max_completion_tokens")?;
        let max_tokens_name = if newer.is_some() { "max_completion_tokens" } else { "max_tokens" };
        let prompt_logprobs = take_prompt_logprobs(fields, common.stream)?;
        Ok(Self {
            chat,
            max_tokens: newer.or(deprecated),
            max_tokens_name,
            logprobs: take_logprobs(fields)?,
            prompt_logprobs,
            common,
        })
    }

    /// Renames what the engine blames to what the client wrote.
    pub(super) fn blame(&self, mut error: ApiError) -> ApiError {
        error.param = error.param.map(|param| match param.as_ref() {
            "prompt" => "messages".into(),
            "max_tokens" => self.max_tokens_name.into(),
            "logprobs" => "top_logprobs".into(),
            _ => param,
        });
        error
    }
}

fn take_logprobs(fields: &mut Fields<'_>) -> Result<Option<u32>, ApiError> {
    let is_wanted = fields.take_bool("logprobs")?.unwrap_or(false);
    let top = fields.take_u32("top_logprobs")?.unwrap_or(0);
    if top > 0 && !is_wanted {
        let message = "top_logprobs needs logprobs: true";
        return Err(ApiError::invalid("top_logprobs", message));
    }
    Ok(is_wanted.then_some(top))
}

fn take_reasoning_effort(
    fields: &mut Fields<'_>,
    kwargs: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    let Some(effort) = fields.take_string("reasoning_effort")? else { return Ok(()) };
    if !REASONING_EFFORTS.contains(&effort.as_str()) {
        let message = format!("reasoning_effort must be one of {}", REASONING_EFFORTS.join(", "));
        return Err(ApiError::invalid("reasoning_effort", message));
    }
    kwargs.entry(messages::REASONING_EFFORT).or_insert(Value::String(effort));
    Ok(())
}
