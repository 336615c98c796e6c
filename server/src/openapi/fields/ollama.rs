//! The fields of Ollama's routes.

use super::{CHOICE, EFFORTS, MESSAGES, OBJECT, OBJECTS, TEXTS, THINK, U32};
use crate::http::fields::NeutralOnly;
use crate::openapi::doc::{Field, Kind, optional, required};

const KEEP_ALIVE: &str =
    r#"{"title": "number of seconds or duration", "type": ["number", "string"]}"#;
const FORMAT: &str = r#"{"title": "`json` or a JSON schema", "anyOf": [{"enum": ["", "json"]}, {"type": "object"}]}"#;

/// Which model.
pub(in crate::openapi) const NAME: &[Field] = &[
    optional("model", Kind::Text, "The model; this or `name`."),
    optional("name", Kind::Text, "The older name of the same."),
];

const KEEP: Field = optional(
    "keep_alive",
    Kind::Schema(KEEP_ALIVE),
    "How long the model stays loaded after the answer; below 0 for ever.",
);
const STREAM: Field = optional("stream", Kind::Bool, "Send lines as they come; default true.");
const OPTIONS: Field = optional(
    "options",
    Kind::Schema(OBJECT),
    "How to sample, in Ollama's words: `temperature`, `top_p`, `num_predict`, `num_ctx`, `seed`, `stop` and others.",
);

/// How a request is answered.
pub(in crate::openapi) const ANSWERING: &[Field] = &[
    KEEP,
    STREAM,
    OPTIONS,
    optional("format", Kind::Schema(FORMAT), "What the answer is held to."),
    optional("truncate", Kind::Bool, "Cut a prompt that does not fit; default false."),
    optional("shift", Kind::Bool, "Not used: an answer ends where the context is full."),
    optional("logprobs", Kind::Bool, "Log probabilities of the tokens."),
    optional("top_logprobs", U32, "The same of so many likeliest tokens; `--max-logprobs`."),
    optional("think", Kind::Schema(THINK), "Whether and how much to think."),
    optional("reasoning_effort", Kind::OneOf(EFFORTS), "The same."),
    optional("enable_thinking", Kind::Bool, "The same."),
];

pub(in crate::openapi) const CHAT: &[Field] = &[
    optional(
        "messages",
        Kind::Schema(MESSAGES),
        "The conversation; without it the model is only loaded, or unloaded.",
    ),
    optional("tools", Kind::Schema(OBJECTS), "Functions that the model may call."),
    optional("tool_choice", Kind::Schema(CHOICE), "As in `/v1/chat/completions`."),
    optional("parallel_tool_calls", Kind::Bool, "More than one call in an answer; default true."),
];

pub(in crate::openapi) const GENERATE: &[Field] = &[
    optional(
        "prompt",
        Kind::Text,
        "What to answer; without it the model is only loaded, or unloaded.",
    ),
    optional("suffix", Kind::Text, "What comes after the answer, for models that fill in."),
    optional("system", Kind::Text, "What the model is told first, in place of its own."),
    optional(
        "context",
        Kind::Ids,
        "The `context` of an earlier answer, which this one goes on from.",
    ),
    optional("raw", Kind::Bool, "Take the prompt as it is, without the model's template."),
];

/// What the parser refuses by itself.
pub(in crate::openapi) const GENERATE_UNSUPPORTED: &[NeutralOnly] =
    &[NeutralOnly("images", &["[]"]), NeutralOnly("template", &["\"\""])];

const EMBED_OPTIONS: [Field; 4] = [
    KEEP,
    OPTIONS,
    optional("truncate", Kind::Bool, "Cut texts that do not fit; default false."),
    optional("dimensions", U32, "The first so many numbers."),
];

pub(in crate::openapi) const EMBED: &[&[Field]] =
    &[NAME, &[optional("input", Kind::Schema(TEXTS), "One text or several.")], &EMBED_OPTIONS];

pub(in crate::openapi) const EMBEDDINGS: &[&[Field]] =
    &[NAME, &[optional("prompt", Kind::Schema(TEXTS), "A text.")], &EMBED_OPTIONS];

pub(in crate::openapi) const SHOW: &[Field] =
    &[optional("verbose", Kind::Bool, "Name every tensor too.")];

pub(in crate::openapi) const PROGRESS: &[Field] =
    &[optional("stream", Kind::Bool, "Send lines of progress; default true.")];

pub(in crate::openapi) const COPY: &[Field] = &[
    required("source", Kind::Text, "The model that there is."),
    required("destination", Kind::Text, "Its other name."),
];

pub(in crate::openapi) const CREATE: &[Field] = &[
    optional("from", Kind::Text, "A model of the store."),
    optional(
        "files",
        Kind::Schema(OBJECT),
        "Or a file that was sent before: its name and its digest.",
    ),
    optional("modelfile", Kind::Text, "A Modelfile, which says the same as the fields."),
    optional("system", Kind::Text, "What the model is told first."),
    optional("template", Kind::Text, "The name of a template that is known."),
    optional("parameters", Kind::Schema(OBJECT), "Options that requests need not give."),
    optional("license", Kind::Schema(TEXTS), "Licenses to show."),
    optional("messages", Kind::Schema(OBJECTS), "Messages before every conversation."),
];
