//! The response bodies of `POST /inference/v1/generate`.

use quire_engine::request::TokenId;
use schemars::JsonSchema;
use serde::Serialize;

use crate::generation::logprobs::{ChatLogprobs, PromptLogprobs};
use crate::generation::{StopReason, Usage};

#[derive(JsonSchema, Serialize)]
pub(super) struct Generated<'a> {
    pub request_id: &'a str,
    pub choices: Vec<Choice>,
    pub prompt_logprobs: Option<Vec<PromptLogprobs>>,
    pub(super) kv_transfer_params: Option<()>,
    pub usage: Usage,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct Choice {
    pub index: usize,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    pub token_ids: Vec<TokenId>,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct Chunk<'a> {
    pub request_id: &'a str,
    /// One, or none in the chunk of the usage.
    pub choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}
