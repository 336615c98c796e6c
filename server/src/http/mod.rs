//! What lies between the socket and the routes: bodies, keys, hosts, logs, connections, signs for routers.

pub mod auth;
pub mod body;
pub mod connections;
pub mod cors;
pub mod fields;
mod head_clock;
pub mod host;
mod linger;
pub mod observe;
mod places;
pub mod signs;
mod sizes;
pub mod stall;
pub mod tls;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;

/// A response of `value` as JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("response types have string keys only");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
