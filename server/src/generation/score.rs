//! How near texts are to one another: the cosines of their embeddings.

use std::sync::Arc;

use quire_engine::PoolingParams;

use super::embed::{EmbedJob, EmbedOptions, Input};
use crate::app::SharedState;
use crate::error::ApiError;
use crate::model::ServedModel;

/// Texts of one field of a request.
pub(crate) struct Side {
    pub field: &'static str,
    pub texts: Vec<String>,
    /// `None`: a text that is too long is an error.
    pub max_tokens: Option<usize>,
}

/// Checked texts as token ids, to be compared one with each, or pair by pair.
pub(crate) struct ScoreJob {
    left: EmbedJob,
    right: EmbedJob,
}

impl ScoreJob {
    /// `left` has one text, or as many as `right`. Fails with the name of the field.
    pub(crate) fn new(
        model: &Arc<ServedModel>,
        [left, right]: [Side; 2],
        options: EmbedOptions,
    ) -> Result<Self, ApiError> {
        let pooling = PoolingParams { dimensions: None, normalize: Some(true) };
        let job_of = |side: Side| {
            let inputs = side.texts.into_iter().map(Input::Text).collect();
            let options = EmbedOptions { pooling, max_tokens: side.max_tokens, ..options };
            EmbedJob::new(model, inputs, options).map_err(|error| blame(side.field, error))
        };
        Ok(Self { left: job_of(left)?, right: job_of(right)? })
    }

    pub(crate) fn model_name(&self) -> &str {
        self.left.model_name()
    }

    /// The score of each text on the right in -1..=1, and how many tokens all texts had.
    pub(crate) async fn run(&self, state: &SharedState) -> Result<(Vec<f64>, u64), ApiError> {
        let (left, right) = tokio::try_join!(self.left.run(state), self.right.run(state))?;
        let partner = |index: usize| &left.0[index.min(left.0.len() - 1)];
        let scores = right.0.iter().enumerate().map(|(index, text)| cosine(partner(index), text));
        Ok((scores.collect(), left.1 + right.1))
    }
}

/// Of two vectors of length 1.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let product: f64 = a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
    product.clamp(-1.0, 1.0)
}

/// Names the field that the texts came from.
fn blame(field: &'static str, mut error: ApiError) -> ApiError {
    if error.param.as_deref() == Some("input") {
        error.param = Some(field.into());
        error.message = format!("{field}: {}", error.message);
    }
    error
}
