//! `POST /detokenize`: token ids to text.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::prepare::{Incoming, prepare};
use crate::app::SharedState;
use crate::error::ApiError;
use crate::http;

pub(crate) async fn detokenize(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, ApiError> {
    Ok(http::json(StatusCode::OK, &prepare(&state, request, answer).await?))
}

fn answer(incoming: &Incoming) -> Result<Value, ApiError> {
    let (mut fields, model) = incoming.fields()?;
    let Some(tokens) = fields.take_ids("tokens")? else {
        return Err(ApiError::invalid("tokens", "tokens is missing"));
    };
    fields.finish();
    let vocab_size = model.engine.info().limits.vocab_size;
    if let Some(id) = tokens.iter().find(|&&id| id >= vocab_size) {
        let message = format!("token id {id} is not below the vocabulary size {vocab_size}");
        return Err(ApiError::invalid("tokens", message));
    }
    Ok(json!({"prompt": model.decode(&tokens, false)}))
}
