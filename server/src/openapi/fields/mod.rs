//! The fields of bodies, for the document. A test holds these lists to what the parsers ask for.

pub(super) mod anthropic;
pub(super) mod ollama;
pub(super) mod responses;

use crate::openapi::doc::{Field, Kind, optional, required};
use crate::routes::generate::UNSUPPORTED_SAMPLING;

const U32: Kind = Kind::Integer(0, u32::MAX as i64);
const I32: Kind = Kind::Integer(i32::MIN as i64, i32::MAX as i64);
const STOP: &str = r#"{"title": "string or list of strings", "anyOf": [{"type": "string", "minLength": 1},
    {"type": "array", "items": {"type": "string", "minLength": 1}}]}"#;
const PROMPT: &str = r#"{"title": "string, list of strings, token ids, or list of lists of token ids", "anyOf": [
    {"type": "string"}, {"type": "array", "items": {"type": "string"}},
    {"type": "array", "items": {"type": "integer", "minimum": 0}},
    {"type": "array", "items": {"type": "array", "items": {"type": "integer", "minimum": 0}}}]}"#;
const BIAS: &str = r#"{"title": "object from token ids to numbers", "type": "object",
    "propertyNames": {"pattern": "^[0-9]+$"}, "additionalProperties": {"type": "number"}}"#;
const MESSAGES: &str = r#"{"title": "list of messages", "type": "array", "minItems": 1, "items": {"type": "object",
    "required": ["role"], "properties": {"role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
    "content": {"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "array", "items": {"type": "object"}}]},
    "name": {"type": ["string", "null"]}, "tool_call_id": {"type": ["string", "null"]},
    "tool_calls": {"type": ["array", "null"], "items": {"type": "object"}},
    "reasoning": {"type": ["string", "null"]}}}}"#;
const TEXTS: &str = r#"{"title": "string or list of strings", "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}"#;
const DOCUMENTS: &str = r#"{"title": "list of strings, or of objects with a `text`", "type": "array", "items":
    {"anyOf": [{"type": "string"}, {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}]}}"#;
const ANY: &str = r#"{"title": "anything"}"#;
const OBJECT: &str = r#"{"title": "object", "type": "object"}"#;
const OBJECTS: &str =
    r#"{"title": "list of objects", "type": "array", "items": {"type": "object"}}"#;
const FORMAT: &str = r#"{"title": "object", "type": "object", "required": ["type"], "properties": {
    "type": {"enum": ["text", "json_object", "json_schema", "structural_tag"]}, "json_schema": {"type": ["object", "null"]}}}"#;
const THINK: &str = r#"{"title": "boolean or an effort", "type": ["boolean", "string"]}"#;
const CHOICE: &str = r#"{"title": "string or object", "anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object"}]}"#;
const STREAM_OPTIONS: &str = r#"{"title": "object", "type": "object", "properties": {
    "include_usage": {"type": ["boolean", "null"]}, "continuous_usage_stats": {"type": ["boolean", "null"]}}}"#;
const EFFORTS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];
const SIDES: &[&str] = &["left", "right"];
const ENCODINGS: &[&str] = &["float", "base64"];

pub(super) const MODEL: Field =
    optional("model", Kind::Text, "One of `/v1/models`; without it, or as `default`, the first.");
const REQUEST_ID: Field = optional(
    "request_id",
    Kind::Text,
    "The end of the answer's id: 1 to 128 letters, digits, or any of `-_.:`.",
);
const PRIORITY: Field =
    optional("priority", I32, "Lower runs earlier, with `--scheduling-policy priority`.");
const ADD_SPECIAL: Field =
    optional("add_special_tokens", Kind::Bool, "The model's own tokens around a text, as BOS.");
const PROMPT_LOGPROBS: Field = optional(
    "prompt_logprobs",
    U32,
    "So many likeliest tokens at each prompt token; not with `stream`.",
);

/// How tokens are chosen and when the answer ends.
pub(super) const SAMPLING: &[Field] = &[
    optional(
        "temperature",
        Kind::Number(0.0, 2.0),
        "0 is greedy. Absent: the model's own default, else 1.",
    ),
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
    optional(
        "min_p",
        Kind::Number(0.0, 1.0),
        "Tokens at least so likely as a share of the likeliest.",
    ),
    optional(
        "repetition_penalty",
        Kind::Schema(r#"{"title": "number above 0", "type": "number", "exclusiveMinimum": 0}"#),
        "Divides the logits of tokens seen before.",
    ),
    optional(
        "presence_penalty",
        Kind::Number(-2.0, 2.0),
        "Taken from the logits of generated tokens.",
    ),
    optional(
        "frequency_penalty",
        Kind::Number(-2.0, 2.0),
        "The same, as often as they were generated.",
    ),
    optional("seed", Kind::Integer(i64::MIN, i64::MAX), "The same seed gives the same answer."),
    optional("min_tokens", U32, "No end before so many tokens."),
    optional("stop", Kind::Schema(STOP), "Texts that end the answer."),
    optional("stop_token_ids", Kind::Ids, "Tokens that end the answer."),
    optional("include_stop_str_in_output", Kind::Bool, "Show what ended the answer."),
    optional("ignore_eos", Kind::Bool, "Go on after the model's own end token."),
    optional(
        "skip_special_tokens",
        Kind::Bool,
        "Leave control tokens out of the text; default true.",
    ),
    optional("logit_bias", Kind::Schema(BIAS), "Added to logits; cut to -100 to 100."),
    optional("allowed_token_ids", Kind::Ids, "Only these."),
    optional("bad_words", Kind::Texts, "Words of one token that do not occur."),
    optional("n", Kind::Integer(1, u32::MAX as i64), "Answers to each prompt; `--max-n`."),
];

/// How a request of the OpenAI API is answered.
pub(super) const ANSWERING: &[Field] = &[
    MODEL,
    REQUEST_ID,
    optional("stream", Kind::Bool, "Send tokens as they come."),
    optional(
        "stream_options",
        Kind::Schema(STREAM_OPTIONS),
        "`include_usage`: a last chunk with the usage; `continuous_usage_stats`: usage on every chunk.",
    ),
    PRIORITY,
    optional(
        "cache_salt",
        Kind::Text,
        "Cached prompts are shared with requests of the same salt alone.",
    ),
    optional(
        "truncate_prompt_tokens",
        Kind::Integer(-1, u32::MAX as i64),
        "Cut prompts to so many tokens; -1: to what fits.",
    ),
    optional("truncation_side", Kind::OneOf(SIDES), "What is cut off; default left."),
    PROMPT_LOGPROBS,
    optional("return_token_ids", Kind::Bool, "Say the ids of prompt and answer too."),
    optional(
        "return_tokens_as_token_ids",
        Kind::Bool,
        "Write tokens of log probabilities as `token_id:N`.",
    ),
    optional("user", Kind::Text, "Not used."),
    optional("session_id", Kind::Text, "Not used."),
];

/// What an answer is held to.
pub(super) const STRUCTURED: &[Field] = &[
    optional(
        "response_format",
        Kind::Schema(FORMAT),
        "`json_object`, `json_schema` with a schema, or `structural_tag`: what the answer is.",
    ),
    optional(
        "structured_outputs",
        Kind::Schema(OBJECT),
        "One of `json`, `json_object`, `regex`, `choice`, `grammar`, `structural_tag`.",
    ),
    optional("guided_json", Kind::Schema(r#"{"title": "JSON schema"}"#), "An older name."),
    optional("guided_regex", Kind::Text, "An older name."),
    optional("guided_choice", Kind::Texts, "An older name."),
    optional("guided_grammar", Kind::Text, "An older name."),
    optional("guided_decoding_backend", Kind::Text, "Not used: there is one."),
];

pub(super) const COMPLETION: &[Field] = &[
    required("prompt", Kind::Schema(PROMPT), "What to go on from."),
    optional("max_tokens", U32, "Default 16; 0 with `echo`: the prompt alone."),
    optional("echo", Kind::Bool, "Show the prompt before the answer."),
    optional(
        "logprobs",
        U32,
        "Log probabilities, and those of so many likeliest tokens; `--max-logprobs`.",
    ),
    optional(
        "best_of",
        Kind::Integer(1, u32::MAX as i64),
        "Make so many answers and show the `n` likeliest; not with `stream`.",
    ),
    ADD_SPECIAL,
];

/// A conversation, as chat and `/tokenize` take it.
pub(super) const CONVERSATION: &[Field] = &[
    optional(
        "messages",
        Kind::Schema(MESSAGES),
        "The conversation; contents are text or text parts.",
    ),
    optional("add_generation_prompt", Kind::Bool, "Begin the answer's message; default true."),
    optional("continue_final_message", Kind::Bool, "Go on within the last message."),
    optional(
        "chat_template_kwargs",
        Kind::Schema(OBJECT),
        "Variables of the model's chat template.",
    ),
    optional(
        "reasoning_effort",
        Kind::OneOf(EFFORTS),
        "How much to think, for templates that ask.",
    ),
    optional("think", Kind::Schema(THINK), "The same, or whether to think at all."),
    optional("enable_thinking", Kind::Bool, "Whether to think."),
    optional("tools", Kind::Schema(OBJECTS), "Functions that the model may call."),
    optional(
        "tool_choice",
        Kind::Schema(CHOICE),
        "`none`, `auto`, `required`, or an object with the name of a function.",
    ),
    optional("parallel_tool_calls", Kind::Bool, "More than one call in an answer; default true."),
    ADD_SPECIAL,
];

pub(super) const CHAT: &[Field] = &[
    optional("include_reasoning", Kind::Bool, "Tell what the model thought; default true."),
    optional(
        "max_completion_tokens",
        U32,
        "Tokens of the answer; default: what the context holds.",
    ),
    optional("max_tokens", U32, "The older name."),
    optional("logprobs", Kind::Bool, "Log probabilities of the tokens."),
    optional("top_logprobs", U32, "The same of so many likeliest tokens; `--max-logprobs`."),
    optional("documents", Kind::Schema(OBJECTS), "Texts for templates that know them."),
    optional(
        "echo",
        Kind::Bool,
        "Show the last message before the answer, where the assistant wrote it.",
    ),
    optional("return_prompt_text", Kind::Bool, "Say what the template wrote."),
];

/// What only `sampling_params` have.
const TOKENS: &[Field] = &[
    optional("max_tokens", U32, "Default 16; `null`: as many as fit."),
    optional("logprobs", U32, "Log probabilities, and those of so many likeliest tokens."),
    PROMPT_LOGPROBS,
    optional("banned_token_ids", Kind::Ids, "None of these."),
    optional("detokenize", Kind::Bool, "Not used: no text is made."),
    optional("output_kind", Kind::Schema(ANY), "Not used."),
];

pub(super) const GENERATE: &[Field] = &[
    required("token_ids", Kind::Ids, "The prompt."),
    optional(
        "sampling_params",
        Kind::Object(&[SAMPLING, TOKENS, STRUCTURED], UNSUPPORTED_SAMPLING),
        "As in `/v1/completions`.",
    ),
    MODEL,
    REQUEST_ID,
    optional("stream", Kind::Bool, "Send tokens as they come."),
    optional("stream_options", Kind::Schema(STREAM_OPTIONS), "As in `/v1/completions`."),
    PRIORITY,
    optional("cache_salt", Kind::Text, "As in `/v1/completions`."),
];

pub(super) const EMBEDDING: &[Field] = &[
    required("input", Kind::Schema(PROMPT), "One text or several, or their token ids."),
    optional(
        "encoding_format",
        Kind::OneOf(ENCODINGS),
        "Numbers, or base64 of their bytes (float32, little-endian).",
    ),
    optional("dimensions", Kind::Integer(1, u32::MAX as i64), "The first so many numbers."),
    optional("normalize", Kind::Bool, "To length 1; default: as the model's files say."),
];

/// Of every route that makes embeddings of texts.
pub(super) const EMBEDDED: &[Field] = &[
    MODEL,
    REQUEST_ID,
    ADD_SPECIAL,
    optional(
        "truncate_prompt_tokens",
        Kind::Integer(-1, u32::MAX as i64),
        "Cut inputs to so many tokens; -1: to what fits.",
    ),
    PRIORITY,
    optional("user", Kind::Text, "Not used."),
];

/// Of the pairs of names one is used, the first that is there.
pub(super) const SCORE: &[Field] = &[
    optional("text_1", Kind::Schema(TEXTS), "One text, or as many as `text_2` has."),
    optional("text_2", Kind::Schema(TEXTS), "What it is compared with."),
    optional("queries", Kind::Schema(TEXTS), "`text_1`, with `documents` or `items`."),
    optional("documents", Kind::Schema(TEXTS), "`text_2`."),
    optional("items", Kind::Schema(TEXTS), "`text_2`."),
    optional("data_1", Kind::Schema(TEXTS), "`text_1`, with `data_2`."),
    optional("data_2", Kind::Schema(TEXTS), "`text_2`."),
    USE_ACTIVATION,
];

const USE_ACTIVATION: Field = optional(
    "use_activation",
    Kind::Bool,
    "Of a reranker: false for its logits as they are; default true.",
);

pub(super) const RERANK: &[Field] = &[
    required("query", Kind::Text, "What the documents are to be near to."),
    required("documents", Kind::Schema(DOCUMENTS), "What is ranked."),
    optional("top_n", U32, "So many results; 0: all."),
    optional(
        "max_tokens_per_doc",
        Kind::Integer(1, u32::MAX as i64),
        "Cut documents to so many tokens.",
    ),
    optional("return_documents", Kind::Bool, "Send the documents back; default true."),
    USE_ACTIVATION,
];

pub(super) const TOKENIZE: &[Field] = &[
    MODEL,
    optional("prompt", Kind::Text, "A text; without it `messages`."),
    optional("return_token_strs", Kind::Bool, "Say how the vocabulary spells each token too."),
];

pub(super) const DETOKENIZE: &[Field] = &[required("tokens", Kind::Ids, "Token ids."), MODEL];
