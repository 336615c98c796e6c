//! Parses and checks the body of `POST /v1/rerank`.

use serde::Deserialize;

use crate::error::ApiError;
use crate::http::fields::{Fields, NeutralOnly};
use crate::limits::ServerLimits;
use crate::routes::embeddings::TextFields;
use crate::routes::score::take_is_raw;

/// A checked request.
pub(super) struct RerankRequest {
    pub query: String,
    pub documents: Vec<String>,
    /// The results that are told.
    pub top_n: usize,
    /// To how many tokens a document is cut.
    pub max_tokens_per_doc: Option<usize>,
    pub return_documents: bool,
    /// Scores of a reranker are its logits.
    pub is_raw: bool,
    pub common: TextFields,
}

/// A text, or an object with one.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawDocument {
    Text(String),
    Object { text: String },
}

/// Fields without support, and the values that ask for nothing.
pub(crate) const UNSUPPORTED: &[NeutralOnly] = &[
    NeutralOnly("rank_fields", &["[]", r#"["text"]"#]),
    NeutralOnly("max_chunks_per_doc", &["1"]),
    NeutralOnly("return_embeddings", &["false"]),
];

impl RerankRequest {
    pub(super) fn take(fields: &mut Fields<'_>, limits: &ServerLimits) -> Result<Self, ApiError> {
        fields.reject_unsupported(UNSUPPORTED)?;
        let query = fields.take_string("query")?;
        let query = query.ok_or_else(|| ApiError::invalid("query", "query is missing"))?;
        let expected = "a list of strings, or of objects with a text";
        let given: Option<Vec<RawDocument>> = fields.take("documents", expected)?;
        let text_of = |document| match document {
            RawDocument::Text(text) | RawDocument::Object { text } => text,
        };
        let documents: Vec<String> = given.unwrap_or_default().into_iter().map(text_of).collect();
        limits.check_num_inputs("documents", documents.len())?;
        // vLLM's clients write 0 for all.
        let top_n = fields.take_u32("top_n")?.filter(|&top_n| top_n > 0);
        let per_doc = fields.take_integer("max_tokens_per_doc", 1, i64::from(u32::MAX))?;
        Ok(Self {
            query,
            documents,
            top_n: top_n.map_or(usize::MAX, |top_n| top_n as usize),
            max_tokens_per_doc: per_doc.map(|tokens| tokens as usize),
            return_documents: fields.take_bool("return_documents")?.unwrap_or(true),
            is_raw: take_is_raw(fields)?,
            common: TextFields::take(fields)?,
        })
    }
}
