//! The fields of the Responses API.

use super::{CHOICE, MODEL, OBJECT, OBJECTS, PRIORITY, SAMPLING, U32};
use crate::openapi::doc::{Field, Kind, optional, required};

const INPUT: &str = r#"{"title": "string or list of items", "anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "object"}}]}"#;
const METADATA: &str = r#"{"title": "object from names to texts", "type": "object", "maxProperties": 16,
    "additionalProperties": {"type": "string", "maxLength": 512}}"#;

/// A response is one answer.
pub(in crate::openapi) const ONE_SAMPLING: &[Field] = match SAMPLING.split_last() {
    Some((_n, others)) => others,
    None => SAMPLING,
};

pub(in crate::openapi) const RESPONSE: &[Field] = &[
    required(
        "input",
        Kind::Schema(INPUT),
        "A text, or items of type message, reasoning, function_call and function_call_output.",
    ),
    MODEL,
    optional("instructions", Kind::Text, "What the model is told first."),
    optional("stream", Kind::Bool, "Send events as the answer grows."),
    optional("store", Kind::Bool, "Keep the response, for the key that asks; default false."),
    optional("previous_response_id", Kind::Text, "A stored response that this one follows."),
    optional("max_output_tokens", U32, "Tokens of the answer; default: what the context holds."),
    optional("max_tool_calls", U32, "Not used."),
    optional("metadata", Kind::Schema(METADATA), "Told back."),
    optional("tools", Kind::Schema(OBJECTS), "Functions that the client runs."),
    optional(
        "tool_choice",
        Kind::Schema(CHOICE),
        "`none`, `auto`, `required`, or an object of type `function` or `allowed_tools`.",
    ),
    optional("parallel_tool_calls", Kind::Bool, "More than one call in an answer; default true."),
    optional("text", Kind::Schema(OBJECT), "`format`: text, json_object, or json_schema."),
    optional("reasoning", Kind::Schema(OBJECT), "`effort`: how much to think."),
    optional(
        "truncation",
        Kind::OneOf(&["auto", "disabled"]),
        "auto: the oldest messages are left out where the conversation is too long.",
    ),
    optional("include", Kind::Texts, "Nothing more is told; log probabilities are refused."),
    optional(
        "chat_template_kwargs",
        Kind::Schema(OBJECT),
        "Variables of the model's chat template.",
    ),
    optional(
        "structured_outputs",
        Kind::Schema(OBJECT),
        "One of `json`, `json_object`, `regex`, `choice`, `grammar`, `structural_tag`.",
    ),
    optional(
        "cache_salt",
        Kind::Text,
        "Cached prompts are shared with requests of the same salt alone.",
    ),
    PRIORITY,
    optional("user", Kind::Text, "Told back."),
    optional("safety_identifier", Kind::Text, "Told back."),
    optional("prompt_cache_key", Kind::Text, "Told back."),
];
