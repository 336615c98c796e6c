//! `GET /api/tags` and `GET /api/ps`: the models there are, and those in memory.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::{far_future, timestamp};
use crate::app::SharedState;
use crate::error::ApiError;
use crate::http;
use crate::registry::{Card, Entry};

/// Models whose files cannot be read are left out, and logged.
pub(crate) async fn tags(State(state): State<SharedState>) -> Response {
    let mut models = Vec::new();
    for entry in state.models.entries() {
        let Some(card) = card_of(&entry).await else { continue };
        let name = tagged(entry.name());
        models.push(json!({
            "name": name,
            "model": name,
            "modified_at": timestamp(card.modified),
            "size": card.num_bytes,
            "digest": card.digest,
            "details": details(&card),
            "capabilities": card.capabilities(),
        }));
    }
    http::json(StatusCode::OK, &json!({"models": models}))
}

pub(crate) async fn ps(State(state): State<SharedState>) -> Response {
    let mut models = Vec::new();
    for entry in state.models.entries() {
        let Some(context) = entry.peek().map(|it| it.engine.info().limits.max_model_len) else {
            continue;
        };
        let Some(card) = card_of(&entry).await else { continue };
        let left = entry.time_left(state.models.keep_alive());
        let expires = left.map_or_else(far_future, |left| SystemTime::now() + left);
        let (name, taken) = (tagged(entry.name()), entry.taken());
        models.push(json!({
            "name": name,
            "model": name,
            "size": taken.num_bytes,
            "digest": card.digest,
            "details": details(&card),
            "expires_at": timestamp(expires),
            "size_vram": if taken.is_on_gpu { taken.num_bytes } else { 0 },
            "context_length": context,
        }));
    }
    http::json(StatusCode::OK, &json!({"models": models}))
}

/// Reads headers away from the async threads, once.
pub(super) async fn card_of(entry: &Arc<Entry>) -> Option<Arc<Card>> {
    read_card(entry).await.map_err(|error| tracing::warn!("{}", error.message)).ok()
}

pub(super) async fn read_card(entry: &Arc<Entry>) -> Result<Arc<Card>, ApiError> {
    let own = Arc::clone(entry);
    let read = tokio::task::spawn_blocking(move || own.card()).await;
    let read = read.map_err(|_| ApiError::internal("reading the model's files failed"))?;
    read.map_err(|error| ApiError::internal(format!("{}: {error:#}", entry.name())))
}

/// Every name has a tag.
pub(super) fn tagged(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') { name.to_owned() } else { format!("{name}:latest") }
}

pub(super) fn details(card: &Card) -> Value {
    json!({
        "parent_model": "",
        "format": if card.is_gguf { "gguf" } else { "safetensors" },
        "family": card.architecture,
        "families": [card.architecture],
        "parameter_size": card.parameter_size(),
        "quantization_level": card.quantization,
        "context_length": card.context_length,
        "embedding_length": card.hidden_size,
    })
}
