//! The response body of `POST /v1/embeddings`.

use schemars::JsonSchema;
use serde::Serialize;

#[derive(JsonSchema, Serialize)]
pub(super) struct Embeddings<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    pub data: Vec<Item>,
    pub usage: Usage,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct Item {
    pub object: &'static str,
    pub index: usize,
    pub embedding: Numbers,
}

/// An array of numbers, or the base64 of their bytes: float32, little-endian.
#[derive(JsonSchema, Serialize)]
#[serde(untagged)]
pub(super) enum Numbers {
    Floats(Vec<f32>),
    Base64(String),
}

#[derive(JsonSchema, Serialize)]
pub(super) struct Usage {
    pub prompt_tokens: u64,
    pub total_tokens: u64,
}
