//! API keys: kept as hashes, compared in constant time, asked for before a body is read.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::app::{self, Access, SharedState};
use crate::error::ApiError;
use crate::http::body;
use crate::tenants::Identity;
use crate::tenants::caller::Caller;

/// The SHA-256 of a key.
#[derive(Clone, Debug)]
pub struct ApiKey(KeyHash);

/// The SHA-256 of a key.
pub(crate) type KeyHash = [u8; 32];

impl ApiKey {
    pub fn new(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Of its hash in hexadecimal digits; `None`: it is none.
    pub fn from_sha256(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(digest))
    }

    pub(crate) fn digest(&self) -> &KeyHash {
        &self.0
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// Refuses requests without a key, unless the route is open to all or no keys are set; those it lets through know whose they are.
pub async fn check(State(state): State<SharedState>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let access = app::access_of(path);
    let is_open = match access {
        Access::Open | Access::Page => true,
        Access::Metrics => state.config.metrics_without_key,
        Access::Key | Access::Manage => false,
    };
    // A preflight request carries no key by design; it learns only the allow-list.
    let is_preflight = request.method() == Method::OPTIONS && access != Access::Manage;
    if is_open || is_preflight {
        return next.run(request).await;
    }
    let Some(identity) = state.tenants.identify(&state.config, request.headers()) else {
        return ApiError::unauthorized().into_response();
    };
    if access == Access::Manage && !identity.may_manage {
        return no_manager(&state).into_response();
    }
    let asks = app::asks(path);
    answer(&state, &identity, asks, request, next).await
}

/// Runs the rest on behalf of whoever asks, and tells them what is left of their limits.
async fn answer(
    state: &SharedState,
    identity: &Identity,
    asks: bool,
    request: Request,
    next: Next,
) -> Response {
    let caller = match Caller::new(identity, request.headers()) {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    let refusal = if asks { caller.check_unheard(state).err() } else { None };
    let mut response = match refusal {
        Some(error) => {
            body::discard(request, &state.config.limits).await;
            error.into_response()
        }
        None => caller.scope(next.run(request)).await,
    };
    identity.tenant.add_headers(response.headers_mut(), Instant::now());
    response
}

/// Changing which models there are needs a key for that; a key for asking them is not enough.
fn no_manager(state: &SharedState) -> ApiError {
    let message = match state.config.manage_keys.is_empty() && !state.tenants.is_shared() {
        true => "this server does not let models be changed over HTTP (--manage-key)",
        false => {
            "a key for changing models is needed (--manage-key, or the scope manage of --keys-file)"
        }
    };
    ApiError::new(StatusCode::FORBIDDEN, message)
}

/// Who asks, by the key that came with the request; those who send none are one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct KeyOwner(pub(crate) Option<KeyHash>);

impl KeyOwner {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        Self(given_key(headers).map(|key| key.0))
    }
}

/// The hash of the key that a request has.
pub(crate) fn given_key(headers: &HeaderMap) -> Option<ApiKey> {
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let bearer = headers.get(header::AUTHORIZATION).and_then(text).and_then(|given| {
        let (scheme, key) = given.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim().to_owned())
    });
    // As Anthropic's clients send it.
    let key = bearer.or_else(|| headers.get("x-api-key").and_then(text))?;
    Some(ApiKey::new(&key))
}

/// Every key is compared, so that the time says nothing about which one matched.
pub(crate) fn is_one_of<'a>(keys: impl Iterator<Item = &'a ApiKey>, given: &ApiKey) -> bool {
    let found = keys.fold(Choice::from(0), |found, key| found | key.0.ct_eq(&given.0));
    bool::from(found)
}
