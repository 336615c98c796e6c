//! The fields of Anthropic's routes.

use super::{OBJECT, OBJECTS, U32};
use crate::openapi::doc::{Field, Kind, optional, required};

const SYSTEM: &str = r#"{"title": "string or list of blocks", "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}"#;
const MESSAGES: &str = r#"{"title": "list of messages", "type": "array", "minItems": 1, "items": {"type": "object",
    "required": ["role", "content"], "properties": {"role": {"enum": ["user", "assistant"]},
    "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}}}}"#;
const THINKING: &str = r#"{"title": "object", "type": "object", "required": ["type"], "properties": {
    "type": {"enum": ["enabled", "disabled", "adaptive"]}}}"#;

pub(in crate::openapi) const MAX_TOKENS: &[Field] =
    &[required("max_tokens", U32, "Tokens of the answer.")];

/// Nothing is answered.
pub(in crate::openapi) const NO_MAX_TOKENS: &[Field] = &[optional("max_tokens", U32, "Not used.")];

pub(in crate::openapi) const MESSAGE: &[Field] = &[
    required(
        "messages",
        Kind::Schema(MESSAGES),
        "The conversation; contents are text, calls of tools and their results.",
    ),
    optional("model", Kind::Text, "One of `/v1/models`; without it, or as `default`, the first."),
    optional("system", Kind::Schema(SYSTEM), "What the model is told first."),
    optional("stream", Kind::Bool, "Send the answer as it comes."),
    optional("temperature", Kind::Number(0.0, 2.0), "0 is greedy."),
    optional(
        "top_p",
        Kind::Number(0.0, 1.0),
        "The likeliest tokens that together are so likely; above 0.",
    ),
    optional(
        "top_k",
        Kind::Integer(-1, u32::MAX as i64),
        "So many likeliest tokens; 0 and -1 are all.",
    ),
    optional("stop_sequences", Kind::Texts, "Texts that end the answer."),
    optional(
        "thinking",
        Kind::Schema(THINKING),
        "Whether to think; how long is the model's own matter.",
    ),
    optional("tools", Kind::Schema(OBJECTS), "Tools that the client runs."),
    optional(
        "tool_choice",
        Kind::Schema(OBJECT),
        "`type`: `auto`, `any`, `none`, or `tool` with a `name`.",
    ),
];
