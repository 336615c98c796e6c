//! Structured output: what an answer must look like, as any front-end may ask for it, to the masks that hold it there.
//!
//! `StructuredOutput` is what was asked (`fields.rs` reads HTTP's many names for it), `grammar.rs` makes one grammar of any
//! kind of it, `compiler.rs` compiles that within limits and keeps what was compiled, `mask.rs` is the engine's `TokenMask`.

mod compiler;
pub(crate) mod fields;
mod gbnf;
mod grammar;
mod mask;
mod structural_tag;
mod vocabulary;

use serde_json::Value;

pub(crate) use compiler::GrammarCompiler;

use crate::error::ApiError;
use crate::limits::ServerLimits;

/// What an answer must look like, and the field to blame.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StructuredOutput {
    pub field: &'static str,
    pub kind: Kind,
    /// Of JSON: no white space between its parts.
    pub is_compact: bool,
}

/// See above.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema describes.
    Json(Value),
    /// The whole answer matches it.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Lark, or GBNF.
    Grammar(String),
    /// Text in which some strings begin parts of a fixed form, as xgrammar's JSON describes it.
    StructuralTag(Value),
}

impl Kind {
    /// `text` is a JSON schema.
    pub(crate) fn of_schema(field: &'static str, text: &str) -> Result<Self, ApiError> {
        parse(field, text).map(Self::Json)
    }

    /// `text` is the JSON of a structural tag.
    pub(crate) fn of_structural_tag(field: &'static str, text: &str) -> Result<Self, ApiError> {
        parse(field, text).map(Self::StructuralTag)
    }
}

fn parse(field: &'static str, text: &str) -> Result<Value, ApiError> {
    serde_json::from_str(text).map_err(|error| {
        ApiError::invalid(field, format!("{field} is a text that is no JSON: {error}"))
    })
}

impl StructuredOutput {
    pub(crate) fn new(field: &'static str, kind: Kind) -> Self {
        Self { field, kind, is_compact: false }
    }

    /// What can be said before anything is compiled.
    fn check(&self, limits: &ServerLimits) -> Result<(), ApiError> {
        let Self { field, .. } = self;
        let num_bytes = match &self.kind {
            Kind::JsonObject => 1,
            Kind::Json(Value::Object(_) | Value::Bool(_)) | Kind::StructuralTag(_) => {
                self.text().len()
            }
            Kind::Json(_) => return Err(self.invalid("is no JSON schema: it must be an object")),
            Kind::Regex(text) | Kind::Grammar(text) => text.len(),
            Kind::Choice(choices) if choices.iter().any(String::is_empty) => {
                return Err(self.invalid("has an empty text"));
            }
            Kind::Choice(choices) => choices.iter().map(|choice| choice.len() + 4).sum(),
        };
        if num_bytes == 0 {
            return Err(self.invalid("is empty"));
        }
        let limit = limits.max_grammar_bytes;
        if num_bytes > limit {
            let message =
                format!("{field} has {num_bytes} bytes, over {limit} (--max-grammar-bytes)");
            return Err(ApiError::invalid(*field, message));
        }
        Ok(())
    }

    /// Everything that tells it from others, but for the kind.
    fn text(&self) -> String {
        match &self.kind {
            Kind::JsonObject => String::new(),
            Kind::Json(json) | Kind::StructuralTag(json) => json.to_string(),
            Kind::Regex(text) | Kind::Grammar(text) => text.clone(),
            Kind::Choice(choices) => Value::from(choices.as_slice()).to_string(),
        }
    }

    fn invalid(&self, what: &str) -> ApiError {
        ApiError::invalid(self.field, format!("{} {what}", self.field))
    }
}
