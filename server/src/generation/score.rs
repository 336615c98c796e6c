//! How near texts are to one another: the cosines of their embeddings, or what a reranker says of each pair.

use std::sync::Arc;

use quire_engine::{PoolingParams, ScoreActivation};

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
pub(crate) enum ScoreJob {
    /// The embeddings of both sides.
    Sides { left: EmbedJob, right: EmbedJob },
    /// A reranker reads both texts of a pair at once.
    Pairs { pairs: EmbedJob, activation: ScoreActivation },
}

impl ScoreJob {
    /// `left` has one text, or as many as `right`. Fails with the name of the field. `is_raw`: scores of a reranker are its
    /// logits.
    pub(crate) fn new(
        model: &Arc<ServedModel>,
        [left, right]: [Side; 2],
        options: EmbedOptions,
        is_raw: bool,
    ) -> Result<Self, ApiError> {
        let tasks = &model.engine.info().limits.tasks;
        if let Some(activation) = tasks.scores {
            let pairs = pairs_of(model, [left, right], options)?;
            let activation = if is_raw { ScoreActivation::None } else { activation };
            return Ok(Self::Pairs { pairs, activation });
        }
        model.engine.info().limits.check_embeds()?;
        let pooling = PoolingParams { normalize: Some(true), ..PoolingParams::default() };
        let job_of = |side: Side| {
            let inputs = side.texts.into_iter().map(Input::Text).collect();
            let options = EmbedOptions { pooling, max_tokens: side.max_tokens, ..options };
            EmbedJob::new(model, inputs, options).map_err(|error| blame(side.field, error))
        };
        Ok(Self::Sides { left: job_of(left)?, right: job_of(right)? })
    }

    pub(crate) fn model_name(&self) -> &str {
        match self {
            Self::Sides { left: job, .. } | Self::Pairs { pairs: job, .. } => job.model_name(),
        }
    }

    /// The score of each text on the right, and how many tokens all texts had. Cosines are in -1..=1.
    pub(crate) async fn run(&self, state: &SharedState) -> Result<(Vec<f64>, u64), ApiError> {
        let (left, right) = match self {
            Self::Sides { left, right } => tokio::try_join!(left.run(state), right.run(state))?,
            Self::Pairs { pairs, activation } => {
                let (logits, num_tokens) = pairs.run(state).await?;
                let logits = logits.iter().map(|logit| logit.first().copied().unwrap_or_default());
                let scores = logits.map(|logit| activation.of(f64::from(logit))).collect();
                return Ok((scores, num_tokens));
            }
        };
        let partner = |index: usize| &left.0[index.min(left.0.len() - 1)];
        let scores = right.0.iter().enumerate().map(|(index, text)| cosine(partner(index), text));
        Ok((scores.collect(), left.1 + right.1))
    }
}

/// Each pair as one input. The second text is cut to the limit of its side, and to what the first one leaves of that side's.
fn pairs_of(
    model: &Arc<ServedModel>,
    [left, right]: [Side; 2],
    options: EmbedOptions,
) -> Result<EmbedJob, ApiError> {
    let pair_of = |(index, second): (usize, &String)| {
        let first = &left.texts[index.min(left.texts.len() - 1)];
        let (tokens, start) = model.encode_pair([first, second], right.max_tokens, left.max_tokens);
        let pooling = PoolingParams { second_text: Some(start as u32), ..PoolingParams::default() };
        (Input::Tokens(tokens), pooling)
    };
    let pairs = right.texts.iter().enumerate().map(pair_of).collect();
    EmbedJob::of_pooled(model, pairs, options).map_err(|error| blame(right.field, error))
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
