//! Around every request: its id, the access log, the HTTP metrics, and a net under panics.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use super::sizes;
use crate::app::{self, Access};
use crate::error::ApiError;
use crate::metrics;
use crate::routes::console;

/// The header that carries a request's id both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The client's own id for this request, where it sent a usable one. Opaque: never a key of anything.
#[derive(Clone)]
pub struct ClientRequestId(pub String);

/// Runs the rest, counts and logs it, and turns a panic into a 500.
pub async fn observe(mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = metrics::method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let id = client_id(request.headers());
    if let Some(id) = &id {
        request.extensions_mut().insert(ClientRequestId(id.clone()));
    }
    let id = id.unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    let route = metrics::route_label(matched.as_ref().map(MatchedPath::as_str));
    let request = request.map(|body| sizes::counted(body, metrics::record_request_size));

    let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => ApiError::internal("the request handler failed").into_response(),
    };

    let (status, elapsed) = (response.status(), began.elapsed());
    metrics::record_http(route, method, status, elapsed);
    log_access(method, route, status.as_u16(), elapsed.as_secs_f64() * 1e3, &id);
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response.map(|body| sizes::counted(body, metrics::record_response_size))
}

/// One line a request, without anything the client wrote but its id. Probes, scrapes and the console come often and say little.
fn log_access(method: &str, route: &str, status: u16, ms: f64, id: &str) {
    const TARGET: &str = "quire::access";
    let is_watched = route == console::STATE_PATH;
    if matches!(app::access_of(Some(route)), Access::Key | Access::Manage) && !is_watched {
        tracing::info!(target: TARGET, method, route, status, ms, id, "request");
    } else {
        tracing::debug!(target: TARGET, method, route, status, ms, id, "request");
    }
}

/// Whether `id` may be repeated in headers, logs and answers.
pub fn is_safe_id(id: &str) -> bool {
    const MAX_LEN: usize = 128;
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    !id.is_empty() && id.len() <= MAX_LEN && id.bytes().all(is_safe)
}

pub(crate) fn client_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    is_safe_id(id).then(|| id.to_owned())
}
