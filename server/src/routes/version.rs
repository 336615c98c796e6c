//! `GET /version`.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use crate::http;

pub(crate) async fn version() -> Response {
    http::json(StatusCode::OK, &json!({"version": env!("CARGO_PKG_VERSION")}))
}
