//! Parses and checks the body of `POST /v1/chat/completions`.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::http::fields::{Fields, NeutralOnly};
use crate::limits::ServerLimits;
use crate::model::ServedModel;
use crate::routes::messages;
use crate::routes::sampling::{CommonFields, take_prompt_logprobs};
use crate::routes::tools::take_tools;
use crate::text::{ChatInput, ToolRequest};

/// A checked request.
pub(super) struct ChatRequest {
    pub chat: ChatInput,
    pub common: CommonFields,
    pub max_tokens: Option<u32>,
    /// What the client calls `max_tokens`.
    pub max_tokens_name: &'static str,
    pub logprobs: Option<u32>,
    pub prompt_logprobs: Option<u32>,
    pub tools: ToolRequest,
    /// What the model thought is told.
    pub include_reasoning: bool,
    /// What is shown before the answer that goes on from it.
    pub echoed: Option<String>,
    pub return_prompt_text: bool,
}

/// Chat fields without support, and the values that ask for nothing.
pub(crate) const UNSUPPORTED: &[NeutralOnly] = &[
    NeutralOnly("functions", &[]),
    NeutralOnly("function_call", &[r#""none""#, r#""auto""#]),
    NeutralOnly("modalities", &[r#"["text"]"#]),
    NeutralOnly("audio", &[]),
    NeutralOnly("chat_template", &[]),
    NeutralOnly("best_of", &["1"]),
];

impl ChatRequest {
    pub(super) fn take(
        fields: &mut Fields<'_>,
        model: &ServedModel,
        limits: &ServerLimits,
    ) -> Result<Self, ApiError> {
        fields.reject_unsupported(UNSUPPORTED)?;
        let mut chat = messages::take_chat(fields, limits)?;
        let tools = take_tools(fields, &mut chat, limits)?;
        chat.documents = take_documents(fields)?;
        let common = CommonFields::take(fields, model, limits)?;
        let deprecated = fields.take_u32("max_tokens")?;
        let newer = fields.take_u32("max_completion_tokens")?;
        let max_tokens_name = if newer.is_some() { "max_completion_tokens" } else { "max_tokens" };
        let prompt_logprobs = take_prompt_logprobs(fields, common.stream)?;
        let is_echoed = fields.take_bool("echo")?.unwrap_or(false);
        let echoed = if is_echoed { last_answer(&chat) } else { None };
        Ok(Self {
            chat,
            max_tokens: newer.or(deprecated),
            max_tokens_name,
            logprobs: take_logprobs(fields)?,
            prompt_logprobs,
            tools,
            include_reasoning: fields.take_bool("include_reasoning")?.unwrap_or(true),
            echoed,
            return_prompt_text: fields.take_bool("return_prompt_text")?.unwrap_or(false),
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

/// Retrieved texts, which some templates know how to write.
fn take_documents(fields: &mut Fields<'_>) -> Result<Option<Value>, ApiError> {
    let documents: Option<Vec<Map<String, Value>>> =
        fields.take("documents", "a list of objects")?;
    let documents = documents.filter(|documents| !documents.is_empty());
    Ok(documents.map(|documents| documents.into_iter().map(Value::Object).collect()))
}

/// The text of the last message, where the assistant wrote it.
fn last_answer(chat: &ChatInput) -> Option<String> {
    let last = chat.messages.last().filter(|last| last["role"] == "assistant")?;
    last["content"].as_str().map(str::to_owned)
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
