//! `GET /console/state/{model}`: one snapshot of the server and of one model's engines, of bounded size and without anybody's text.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};

use super::look::Look;
use crate::app::{Health, SharedState};
use crate::error::ApiError;
use crate::http;
use crate::model::ServedModel;
use crate::registry::{Entry, Taken};
use crate::routes::server_info::INSTANCE_ID;

/// Models that are listed.
const MAX_MODELS: usize = 64;

#[derive(Serialize)]
struct Snapshot<'a> {
    /// Another one after each start of the server.
    instance_id: &'a str,
    version: &'static str,
    health: &'static str,
    uptime_seconds: f64,
    num_models: usize,
    models: Vec<Value>,
    /// `null`: it is not loaded.
    model: Option<Value>,
    #[serde(flatten)]
    look: &'a Look,
}

pub(crate) async fn state(
    State(state): State<SharedState>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    // While no model is there, the page says so.
    let entry = match state.models.find(Some(&name)) {
        Err(error) if name != "default" => return Err(error),
        found => found.ok(),
    };
    let model = entry.as_ref().and_then(|entry| entry.peek());
    let taken = entry.as_ref().map(|entry| entry.taken()).unwrap_or_default();
    let entries = state.models.entries();
    let shown = entries.iter().take(MAX_MODELS);
    let look = match &model {
        Some(model) => model.last_look.renewed(&model.engine).await,
        None => Arc::default(),
    };
    let snapshot = Snapshot {
        instance_id: &INSTANCE_ID,
        version: env!("CARGO_PKG_VERSION"),
        health: health_name(state.health()),
        uptime_seconds: state.uptime().as_secs_f64(),
        num_models: entries.len(),
        models: shown.map(|entry| card(&state, entry)).collect(),
        model: model.as_ref().map(|model| facts(model, &taken)),
        look: &look,
    };
    let mut response = http::json(StatusCode::OK, &snapshot);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

fn health_name(health: Health) -> &'static str {
    let name = Health::NAMES.iter().find(|(own, _)| *own == health).map(|(_, name)| *name);
    name.expect("every state has a name")
}

/// A model of the list. Looking at it does not count as use.
fn card(state: &SharedState, entry: &Entry) -> Value {
    let (taken, is_loaded) = (entry.taken(), entry.is_loaded());
    let left = entry.time_left(state.models.keep_alive()).filter(|_| is_loaded);
    json!({
        "name": entry.name(),
        "is_loaded": is_loaded,
        "is_pinned": entry.is_pinned(),
        "num_bytes": taken.num_bytes,
        "is_on_gpu": taken.is_on_gpu,
        "seconds_left": left.map(|left| left.as_secs_f64()),
    })
}

/// What does not change while the model is loaded.
fn facts(model: &ServedModel, taken: &Taken) -> Value {
    let info = model.engine.info();
    let defaults = &model.sampling_defaults;
    json!({
        "name": model.name,
        "generates": info.limits.tasks.generates,
        "max_model_len": info.limits.max_model_len,
        "max_num_seqs": info.max_num_seqs,
        "max_num_batched_tokens": info.max_num_batched_tokens,
        "max_num_queued": info.max_num_queued,
        "block_size": info.block_size,
        "temperature": defaults.temperature,
        "top_p": defaults.top_p,
        "memory": pairs(&taken.memory, "num_bytes"),
        "plan": pairs(&taken.plan, "value"),
    })
}

fn pairs<T: Serialize>(pairs: &[(&'static str, T)], field: &str) -> Vec<Value> {
    pairs.iter().map(|(name, value)| json!({"name": name, field: value})).collect()
}
