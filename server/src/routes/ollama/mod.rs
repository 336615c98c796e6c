//! The API of Ollama, on the same port: its clients work as they are.
//!
//! Requests become the same `GenerationSpec` as those of the OpenAI routes and pass the same checks. What differs is the shape: JSON
//! lines instead of events, `options`, durations in nanoseconds, errors as `{"error": "text"}`.

mod chat;
mod durations;
mod embed;
mod error;
mod generate;
mod incoming;
mod lines;
pub(crate) mod manage;
mod models;
mod options;
mod show;

pub(crate) use chat::chat;
pub(crate) use embed::{embed, embeddings};
pub(crate) use generate::generate;
pub(crate) use models::{ps, tags};
pub(crate) use show::show;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::http;
use crate::text::strftime;

/// `GET /`: clients look for this text.
pub(crate) async fn root() -> Response {
    "Ollama is running".into_response()
}

/// `GET /api/version`: the version of the API that clients compare, three numbers with dots.
pub(crate) async fn version() -> Response {
    http::json(StatusCode::OK, &json!({"version": API_VERSION}))
}

/// Of the API as it is answered here, which clients switch features by; Quire's own is at `/version`.
const API_VERSION: &str = "0.33.0";

/// RFC 3339 in UTC, with nanoseconds.
pub(crate) fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = strftime(since.as_secs() as i64, "%Y-%m-%dT%H:%M:%S");
    format!("{seconds}.{:09}Z", since.subsec_nanos())
}

/// When something that is never over is over, as Ollama writes it: far away, but a date that all clients can read.
pub(crate) fn far_future() -> SystemTime {
    const SECONDS: u64 = 11_000_000_000;
    UNIX_EPOCH + Duration::from_secs(SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        let time = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        assert_eq!(timestamp(time), "2023-11-14T22:13:20.000000005Z");
        assert!(timestamp(far_future()).starts_with("2318-"), "{}", timestamp(far_future()));
    }
}
