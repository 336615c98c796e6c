//! `/console`: one page to chat and to see what the engine does. Its files are in the binary; `/console/state/{model}` is what it shows.

mod look;
mod state;

use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use sha2::{Digest, Sha256};

pub(crate) use look::LastLook;
pub(crate) use state::state;

use crate::error::ApiError;
use crate::registry::hex;

/// What the page asks for each second: the server, and the engines of one model.
pub(crate) const STATE_PATH: &str = "/console/state/{model}";

/// Nothing from elsewhere, nothing inline, no frame around it: what a model writes can do no harm.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

const PAGE: &str = "console.html";

/// Name, type and text of each file.
const FILES: [(&str, &str, &str); 10] = [
    (PAGE, HTML, include_str!("assets/console.html")),
    ("console.css", CSS, include_str!("assets/console.css")),
    ("icon.svg", SVG, include_str!("assets/icon.svg")),
    ("theme.js", SCRIPT, include_str!("assets/theme.js")),
    ("main.js", SCRIPT, include_str!("assets/main.js")),
    ("api.js", SCRIPT, include_str!("assets/api.js")),
    ("text.js", SCRIPT, include_str!("assets/text.js")),
    ("chat.js", SCRIPT, include_str!("assets/chat.js")),
    ("engine.js", SCRIPT, include_str!("assets/engine.js")),
    ("draw.js", SCRIPT, include_str!("assets/draw.js")),
];

/// A tag for each file: another text has another one.
static TAGS: LazyLock<[String; FILES.len()]> = LazyLock::new(|| {
    FILES.map(|(_, _, text)| format!("\"{}\"", &hex(&Sha256::digest(text.as_bytes()))[..16]))
});

/// `GET /console`.
pub(crate) async fn page(headers: HeaderMap) -> Response {
    file(PAGE, &headers).expect("the page is one of the files")
}

/// `GET /console/{asset}`.
pub(crate) async fn asset(
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let not_found = || ApiError::new(StatusCode::NOT_FOUND, "the console has no such file");
    file(&name, &headers).ok_or_else(not_found)
}

/// Browsers keep it, and ask each time whether it is still the same.
fn file(name: &str, request: &HeaderMap) -> Option<Response> {
    let index = FILES.iter().position(|(own, _, _)| *own == name)?;
    let ((_, kind, text), tag) = (FILES[index], TAGS[index].as_str());
    let known = request.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let is_known = known.is_some_and(|known| known.split(',').any(|own| own.trim() == tag));
    let mut response = Response::new(if is_known { Body::empty() } else { Body::from(text) });
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::ETAG, HeaderValue::from_static(tag));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Some(response)
}
