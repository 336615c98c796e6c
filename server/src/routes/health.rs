//! Probes: whether the engine is alive, started, and ready for requests.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use crate::app::{Health, SharedState};
use crate::http;

/// Red only when a restart would help: the engine hangs or has stopped.
pub(crate) async fn livez(State(state): State<SharedState>) -> Response {
    let health = state.health();
    answer(health, !matches!(health, Health::Hung | Health::Stopped))
}

/// Green once the model that stays is loaded, whatever happens then.
pub(crate) async fn startupz(State(state): State<SharedState>) -> Response {
    let is_started = state.models.is_started();
    answer(if is_started { Health::Ready } else { state.health() }, is_started)
}

/// Green while requests are taken.
pub(crate) async fn readyz(State(state): State<SharedState>) -> Response {
    let health = state.health();
    answer(health, health == Health::Ready)
}

fn answer(health: Health, is_green: bool) -> Response {
    let status = if is_green { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = match health {
        Health::Loading => "loading",
        Health::Ready => "ok",
        Health::Draining => "draining",
        Health::Hung => "hung",
        Health::Stopped => "stopped",
    };
    http::json(status, &json!({"status": word}))
}
