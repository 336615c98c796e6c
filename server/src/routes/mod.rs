//! One folder or file a route: parse, validate, convert, answer.

pub(crate) mod anthropic;
pub(crate) mod chat_completions;
pub(crate) mod completions;
pub(crate) mod console;
pub(crate) mod detokenize;
pub(crate) mod embeddings;
pub(crate) mod generate;
pub(crate) mod health;
pub(crate) mod load;
pub(crate) mod loading;
pub(crate) mod messages;
pub(crate) mod metrics;
pub(crate) mod models;
pub(crate) mod ollama;
pub(crate) mod prepare;
pub(crate) mod render;
pub(crate) mod rerank;
pub(crate) mod responses;
pub(crate) mod sampling;
pub(crate) mod score;
pub(crate) mod server_info;
pub(crate) mod tokenize;
pub(crate) mod tools;
pub(crate) mod truncation;
pub(crate) mod version;

/// `system_fingerprint` of every answer.
pub(crate) const FINGERPRINT: &str = concat!("quire-", env!("CARGO_PKG_VERSION"));
