//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::app::SharedState;
use crate::error::ApiError;
use crate::http;
use crate::registry::Entry;

pub(crate) async fn list(State(state): State<SharedState>) -> Result<Response, ApiError> {
    if !state.models.is_started() {
        return Err(ApiError::loading());
    }
    let entries = state.models.entries();
    let cards: Vec<Value> = entries
        .iter()
        .flat_map(|entry| entry.names().iter().map(|name| card(name, entry)))
        .collect();
    Ok(http::json(StatusCode::OK, &json!({"object": "list", "data": cards})))
}

pub(crate) async fn one(
    State(state): State<SharedState>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let entry = state.models.find(Some(&id))?;
    if entry.is_pinned() && !entry.is_loaded() {
        return Err(ApiError::loading());
    }
    Ok(http::json(StatusCode::OK, &card(&id, &entry)))
}

/// `max_model_len` is null for a model that was neither planned nor loaded yet: it follows from its plan.
fn card(id: &str, entry: &Entry) -> Value {
    let model = entry.peek();
    json!({
        "id": id,
        "object": "model",
        "created": model.as_ref().map_or_else(|| entry.created(), |model| model.created),
        "owned_by": "quire",
        "root": entry.name(),
        "parent": null,
        "max_model_len": entry.max_model_len(),
        "permission": [],
    })
}
