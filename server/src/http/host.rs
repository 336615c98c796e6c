//! Host and Origin checks while bound to loopback: a web page must not reach a local server by DNS rebinding.

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::SharedState;
use crate::error::ApiError;

/// Refuses requests that were meant for another host, or that a page of another origin sent.
pub async fn check(State(state): State<SharedState>, request: Request, next: Next) -> Response {
    let config = &state.config;
    let is_ours = |host: &str| {
        is_loopback(host) || config.allowed_hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
    };
    let host = host_of(&request);
    if host.as_deref().is_some_and(|host| !is_ours(host)) {
        return forbidden("this host name is not served here (--allowed-hosts)");
    }
    if let Some(origin) = text(request.headers(), header::ORIGIN) {
        let is_allowed = config.allowed_origins.iter().any(|own| own == "*" || own == origin);
        let origin_host = origin.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
        if !is_allowed && !origin_host.is_some_and(|host| is_ours(strip_brackets(&host))) {
            return forbidden("this origin is not allowed (--allowed-origins)");
        }
    }
    next.run(request).await
}

/// Without the port; an unreadable value counts as a foreign host, no value at all as none.
fn host_of(request: &Request) -> Option<String> {
    if let Some(host) = request.uri().host() {
        return Some(strip_brackets(host).to_owned());
    }
    let value = request.headers().get(header::HOST)?;
    let authority = value.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
    Some(authority.map_or_else(String::new, |known| strip_brackets(known.host()).to_owned()))
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host == "127.0.0.1" || host == "::1"
}

fn strip_brackets(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or(""))
}

fn forbidden(message: &str) -> Response {
    ApiError::new(StatusCode::FORBIDDEN, message).into_response()
}
