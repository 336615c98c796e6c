//! Parses and checks the body of `POST /v1/score`.

use crate::error::ApiError;
use crate::http::fields::{Fields, OneOrMany};
use crate::limits::ServerLimits;
use crate::routes::embeddings::TextFields;

/// A checked request.
pub(super) struct ScoreRequest {
    /// Names and texts of the two fields; the first has one text, or as many as the second.
    pub sides: [(&'static str, Vec<String>); 2],
    /// Scores of a reranker are its logits.
    pub is_raw: bool,
    pub common: TextFields,
}

/// What clients call the two, the first pair first.
const NAMES: [[&str; 2]; 4] =
    [["text_1", "text_2"], ["queries", "documents"], ["queries", "items"], ["data_1", "data_2"]];

impl ScoreRequest {
    pub(super) fn take(fields: &mut Fields<'_>, limits: &ServerLimits) -> Result<Self, ApiError> {
        let given = NAMES.into_iter().find(|names| names.iter().all(|name| fields.has(name)));
        let names = given.unwrap_or(NAMES[0]);
        let [left, right] = names.map(|name| take_texts(fields, name, limits));
        let (left, right) = (left?, right?);
        if left.len() > 1 && left.len() != right.len() {
            let message = format!(
                "{} has {} entries and {} has {}: write one, or as many",
                names[0],
                left.len(),
                names[1],
                right.len()
            );
            return Err(ApiError::invalid(names[0], message));
        }
        let (is_raw, common) = (take_is_raw(fields)?, TextFields::take(fields)?);
        Ok(Self { is_raw, sides: [(names[0], left), (names[1], right)], common })
    }
}

/// vLLM's name for whether a reranker's scores are more than its logits.
pub(crate) fn take_is_raw(fields: &mut Fields<'_>) -> Result<bool, ApiError> {
    Ok(!fields.take_bool("use_activation")?.unwrap_or(true))
}

fn take_texts(
    fields: &mut Fields<'_>,
    name: &'static str,
    limits: &ServerLimits,
) -> Result<Vec<String>, ApiError> {
    let given: Option<OneOrMany> = fields.take(name, "a string or a list of strings")?;
    let Some(given) = given else {
        return Err(ApiError::invalid(name, format!("{name} is missing")));
    };
    let texts = given.into_vec();
    limits.check_num_inputs(name, texts.len())?;
    Ok(texts)
}
