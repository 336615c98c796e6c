//! The response bodies of `POST /v1/completions`.

use quire_engine::request::TokenId;
use schemars::JsonSchema;
use serde::Serialize;

use crate::generation::logprobs::{CompletionLogprobs, PromptLogprobs};
use crate::generation::times::RequestMetrics;
use crate::generation::{StopReason, Usage};

#[derive(JsonSchema, Serialize)]
pub(super) struct Completion<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    pub choices: Vec<Choice<'a>>,
    pub service_tier: Option<&'static str>,
    pub system_fingerprint: &'static str,
    pub usage: Usage,
    pub(super) kv_transfer_params: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<RequestMetrics>,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct Choice<'a> {
    pub index: usize,
    pub text: String,
    pub logprobs: Option<CompletionLogprobs>,
    pub finish_reason: &'static str,
    pub stop_reason: Option<StopReason>,
    pub token_ids: Option<Vec<TokenId>>,
    pub prompt_logprobs: Option<Vec<PromptLogprobs>>,
    pub prompt_token_ids: Option<&'a [TokenId]>,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct Chunk<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    pub system_fingerprint: &'static str,
    /// One, or none in the chunk of the usage.
    pub choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<RequestMetrics>,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct ChunkChoice {
    pub index: usize,
    pub text: String,
    pub logprobs: Option<CompletionLogprobs>,
    pub finish_reason: Option<&'static str>,
    pub stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<TokenId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<TokenId>>,
}
