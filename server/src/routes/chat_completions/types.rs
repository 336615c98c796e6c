//! The response bodies of `POST /v1/chat/completions`.

use quire_engine::request::TokenId;
use serde::Serialize;

use crate::generation::logprobs::{ChatLogprobs, PromptLogprobs};
use crate::generation::{StopReason, Usage};

#[derive(Serialize)]
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
    pub(super) kv_transfer_params: Option<()>,
}

#[derive(Serialize)]
pub(super) struct Choice {
    pub index: usize,
    pub message: Message,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: &'static str,
    pub stop_reason: Option<StopReason>,
    pub token_ids: Option<Vec<TokenId>>,
}

#[derive(Serialize)]
pub(super) struct Message {
    pub role: &'static str,
    pub content: String,
    pub refusal: Option<String>,
    pub(super) annotations: Option<()>,
    pub(super) audio: Option<()>,
    pub(super) function_call: Option<()>,
    pub tool_calls: [(); 0],
    pub reasoning: Option<String>,
}

#[derive(Serialize)]
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
}

#[derive(Serialize)]
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

#[derive(Default, Serialize)]
pub(super) struct DeltaMessage<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<&'a str>,
}
