//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::app::SharedState;
use crate::error::ApiError;
use crate::http;
use crate::model::ServedModel;

pub(crate) async fn list(State(state): State<SharedState>) -> Result<Response, ApiError> {
    let model = state.model()?;
    let names = &state.config.served_model_names;
    let cards: Vec<Value> = names.iter().map(|name| card(name, &state, model)).collect();
    Ok(http::json(StatusCode::OK, &json!({"object": "list", "data": cards})))
}

pub(crate) async fn one(
    State(state): State<SharedState>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let model = state.resolve_model(Some(&id))?;
    Ok(http::json(StatusCode::OK, &card(&id, &state, model)))
}

fn card(id: &str, state: &SharedState, model: &ServedModel) -> Value {
    json!({
        "id": id,
        "object": "model",
        "created": model.created,
        "owned_by": "quire",
        "root": state.model_name(),
        "parent": null,
        "max_model_len": model.engine.info().limits.max_model_len,
        "permission": [],
    })
}
