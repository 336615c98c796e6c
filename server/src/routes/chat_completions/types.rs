//! The response bodies of `POST /v1/chat/completions`.

use quire_engine::request::TokenId;
use schemars::JsonSchema;
use serde::Serialize;

use crate::generation::logprobs::{ChatLogprobs, PromptLogprobs};
use crate::generation::times::RequestMetrics;
use crate::generation::{StopReason, Usage};
use crate::text::OutputEvent;

#[derive(JsonSchema, Serialize)]
pub(super) struct ChatCompletion<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    pub choices: Vec<Choice>,
    pub service_tier: Option<&'static str>,
    pub system_fingerprint: &'static str,
    pub usage: Usage,
    pub prompt_logprobs: Option<Vec<PromptLogprobs>>,
    pub prompt_token_ids: Option<&'a [TokenId]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_text: Option<String>,
    pub(super) kv_transfer_params: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<RequestMetrics>,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct Choice {
    pub index: usize,
    pub message: Message,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: &'static str,
    pub stop_reason: Option<StopReason>,
    pub token_ids: Option<Vec<TokenId>>,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct Message {
    pub role: &'static str,
    /// `null` where there are calls only.
    pub content: Option<String>,
    pub refusal: Option<String>,
    pub(super) annotations: Option<()>,
    pub(super) audio: Option<()>,
    pub(super) function_call: Option<()>,
    pub tool_calls: Vec<ToolCallMessage>,
    pub reasoning: Option<String>,
    /// The older name of the same.
    pub reasoning_content: Option<String>,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct ToolCallMessage {
    pub id: String,
    pub r#type: &'static str,
    pub function: FunctionCall,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct FunctionCall {
    pub name: String,
    /// JSON.
    pub arguments: String,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct Chunk<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    pub system_fingerprint: &'static str,
    /// One, or none in the chunk of the usage.
    pub choices: Vec<ChunkChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<&'a [TokenId]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<RequestMetrics>,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct ChunkChoice<'a> {
    pub index: usize,
    pub delta: DeltaMessage<'a>,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<TokenId>>,
}

impl<'a> ChunkChoice<'a> {
    pub(super) fn new(index: usize, delta: DeltaMessage<'a>) -> Self {
        Self {
            index,
            delta,
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
            token_ids: None,
        }
    }
}

/// A piece of one call: first with id and name, then with arguments.
#[derive(JsonSchema, Serialize)]
pub(super) struct ToolCallDelta<'a> {
    pub index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<&'static str>,
    pub function: FunctionDelta<'a>,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    pub arguments: &'a str,
}

#[derive(Default, JsonSchema, Serialize)]
pub(super) struct DeltaMessage<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<&'a str>,
    /// The older name of the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<[ToolCallDelta<'a>; 1]>,
}

impl<'a> DeltaMessage<'a> {
    pub(super) fn of_event(event: &'a OutputEvent) -> Self {
        let call = |index, id, name, arguments| {
            let function = FunctionDelta { name, arguments };
            Some([ToolCallDelta { index, id, r#type: id.map(|_| "function"), function }])
        };
        match event {
            OutputEvent::Reasoning(text) => {
                Self { reasoning: Some(text), reasoning_content: Some(text), ..Self::default() }
            }
            OutputEvent::Content(text) => Self { content: Some(text), ..Self::default() },
            OutputEvent::ToolCallStart { index, id, name } => Self {
                tool_calls: call(*index, Some(id.as_str()), Some(name.as_str()), ""),
                ..Self::default()
            },
            OutputEvent::ToolCallArguments { index, delta } => {
                Self { tool_calls: call(*index, None, None, delta), ..Self::default() }
            }
        }
    }
}
