//! What routers ask of a worker before they send it requests: `/server_info`, `/model_info`, `/kv_event_sources`.

use std::sync::LazyLock;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::app::SharedState;
use crate::error::ApiError;
use crate::http;

/// Another one after each start of the server.
pub(crate) static INSTANCE_ID: LazyLock<String> =
    LazyLock::new(|| uuid::Uuid::new_v4().to_string());

/// `GET /server_info` and `GET /get_server_info`.
pub(crate) async fn server_info(State(state): State<SharedState>) -> Result<Response, ApiError> {
    let model = state.models.loaded(None)?;
    let info = model.engine.info();
    let body = json!({
        "instance_id": *INSTANCE_ID,
        "version": env!("CARGO_PKG_VERSION"),
        "model_id": model.name,
        "model_path": model.path_or_name(),
        "served_model_names": state.models.names(),
        "kv_block_size": info.block_size,
        "effective_attention_block_size": info.block_size,
        "total_kv_blocks": info.num_blocks,
        "max_model_len": info.limits.max_model_len,
        "max_running_requests": info.max_num_seqs,
        "max_batched_tokens": info.max_num_batched_tokens,
        "max_queued_requests": info.max_num_queued,
        "dp_size": model.engine.num_replicas(),
    });
    Ok(http::json(StatusCode::OK, &body))
}

/// `GET /model_info` and `GET /get_model_info`.
pub(crate) async fn model_info(State(state): State<SharedState>) -> Result<Response, ApiError> {
    let model = state.models.loaded(None)?;
    let limits = &model.engine.info().limits;
    let path = model.path_or_name();
    let body = json!({
        "model_path": path,
        "tokenizer_path": path,
        "served_model_name": model.name,
        "is_generation": limits.tasks.generates,
        "max_context_length": limits.max_model_len,
        "vocab_size": limits.vocab_size,
        "has_image_understanding": false,
        "has_audio_understanding": false,
    });
    Ok(http::json(StatusCode::OK, &body))
}

/// `GET /kv_event_sources`: by replica, where events of the prefix cache are published.
pub(crate) async fn kv_event_sources(State(state): State<SharedState>) -> Response {
    let models = state.models.all_loaded();
    let publishers = models.iter().flat_map(|model| &model.kv_publishers);
    let sources: Map<String, Value> =
        publishers.map(|publisher| (publisher.rank().to_string(), publisher.describe())).collect();
    http::json(StatusCode::OK, &sources)
}
