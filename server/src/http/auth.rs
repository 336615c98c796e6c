//! API keys: kept as hashes, compared in constant time, asked for before a body is read.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::app::{self, Access, SharedState};
use crate::error::ApiError;

/// The SHA-256 of a key.
#[derive(Clone)]
pub struct ApiKey([u8; 32]);

impl ApiKey {
    pub fn new(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }
}

/// Refuses requests without a key, unless the route is open to all or no keys are set.
pub async fn check(State(state): State<SharedState>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let is_open = match app::access_of(path) {
        Access::Open => true,
        Access::Metrics => state.config.metrics_without_key,
        Access::Key => false,
    };
    // A preflight request carries no key by design; it learns only the allow-list.
    let is_preflight = request.method() == Method::OPTIONS;
    if is_open || is_preflight || is_known(&state.config.api_keys, request.headers()) {
        return next.run(request).await;
    }
    ApiError::unauthorized().into_response()
}

pub(crate) fn is_known(keys: &[ApiKey], headers: &HeaderMap) -> bool {
    if keys.is_empty() {
        return true;
    }
    let Some(given) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let Some((scheme, key)) = given.split_once(' ') else { return false };
    let given = ApiKey::new(key.trim());
    // Every key is compared, so that the time says nothing about which one matched.
    let found = keys.iter().fold(Choice::from(0), |found, key| found | key.0.ct_eq(&given.0));
    scheme.eq_ignore_ascii_case("bearer") && bool::from(found)
}
