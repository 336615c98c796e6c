//! `GET /metrics`: the Prometheus text format.

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use crate::app::SharedState;

pub(crate) async fn metrics(State(state): State<SharedState>) -> Response {
    state.record();
    let mut response = state.metrics.render().into_response();
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, format);
    response
}
