//! API keys: kept as hashes, compared in constant time, asked for before a body is read.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::app::{self, Access, SharedState};
use crate::error::ApiError;

/// The SHA-256 of a key.
#[derive(Clone)]
pub struct ApiKey(KeyHash);

/// The SHA-256 of a key.
pub(crate) type KeyHash = [u8; 32];

impl ApiKey {
    pub fn new(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }
}

/// Refuses requests without a key, unless the route is open to all or no keys are set.
pub async fn check(State(state): State<SharedState>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let is_open = match app::access_of(path) {
        Access::Open | Access::Page => true,
        Access::Metrics => state.config.metrics_without_key,
        Access::Key => false,
        Access::Manage => return check_manage(&state, request, next).await,
    };
    // A preflight request carries no key by design; it learns only the allow-list.
    let is_preflight = request.method() == Method::OPTIONS;
    let (config, headers) = (&state.config, request.headers());
    let is_manager = !config.manage_keys.is_empty() && is_known(&config.manage_keys, headers);
    if is_open || is_preflight || is_known(&config.api_keys, headers) || is_manager {
        return next.run(request).await;
    }
    ApiError::unauthorized().into_response()
}

/// Changing which models there are needs a key for that; a key for asking them is not enough.
async fn check_manage(state: &SharedState, request: Request, next: Next) -> Response {
    let config = &state.config;
    let is_allowed = match config.manage_keys.is_empty() {
        true => config.open_management,
        false => is_known(&config.manage_keys, request.headers()),
    };
    if is_allowed {
        return next.run(request).await;
    }
    if !is_known(&config.api_keys, request.headers()) {
        return ApiError::unauthorized().into_response();
    }
    let message = match config.manage_keys.is_empty() {
        true => "this server does not let models be changed over HTTP (--manage-key)",
        false => "a key for changing models is needed (--manage-key)",
    };
    ApiError::new(StatusCode::FORBIDDEN, message).into_response()
}

pub(crate) fn is_known(keys: &[ApiKey], headers: &HeaderMap) -> bool {
    keys.is_empty() || known_key(keys, headers).is_some()
}

/// The key that a request came with, where it is one of `keys`.
pub(crate) fn known_key(keys: &[ApiKey], headers: &HeaderMap) -> Option<KeyHash> {
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let bearer = headers.get(header::AUTHORIZATION).and_then(text).and_then(|given| {
        let (scheme, key) = given.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim().to_owned())
    });
    // As Anthropic's clients send it.
    let key = bearer.or_else(|| headers.get("x-api-key").and_then(text))?;
    let given = ApiKey::new(&key);
    // Every key is compared, so that the time says nothing about which one matched.
    let found = keys.iter().fold(Choice::from(0), |found, key| found | key.0.ct_eq(&given.0));
    bool::from(found).then_some(given.0)
}
