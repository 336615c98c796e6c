//! `POST /v1/score`: how near one text, or each of some, is to others.

mod validate;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use validate::ScoreRequest;
pub(crate) use validate::take_is_raw;

use crate::app::{SharedState, unix_time};
use crate::error::ApiError;
use crate::generation::score::{ScoreJob, Side};
use crate::http;
use crate::routes::prepare::{Incoming, prepare};

pub(crate) async fn score(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, ApiError> {
    let (id, job) = prepare(&state, request, convert).await?;
    let (scores, num_tokens) = job.run(&state).await?;
    let data = scores.into_iter().enumerate();
    let data: Vec<Value> = data
        .map(|(index, score)| json!({"index": index, "object": "score", "score": score}))
        .collect();
    let body = json!({
        "id": id,
        "object": "list",
        "created": unix_time(),
        "model": job.model_name(),
        "data": data,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    });
    Ok(http::json(StatusCode::OK, &body))
}

/// Parses, tokenizes and checks.
fn convert(incoming: &Incoming) -> Result<(String, ScoreJob), ApiError> {
    let (mut fields, model) = incoming.fields()?;
    let limits = &model.engine.info().limits;
    let id = incoming.answer_id("score", &mut fields)?;
    let request = ScoreRequest::take(&mut fields, &incoming.state.config.limits)?;
    fields.finish();
    let max_tokens = request.common.max_tokens(limits.tasks.max_embedded_len);
    let sides = request.sides.map(|(field, texts)| Side { field, texts, max_tokens });
    let options = request.common.options(incoming.arrival);
    let job = ScoreJob::new(&model, sides, options, request.is_raw)?;
    Ok((id, job))
}
