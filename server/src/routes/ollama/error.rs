//! Errors in Ollama's shape: `{"error": "text"}`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::http;

/// An `ApiError` as Ollama's clients read it.
#[derive(Clone, Debug)]
pub(crate) struct OllamaError(pub(crate) ApiError);

impl OllamaError {
    /// What a stream that has begun says last.
    pub(crate) fn body(&self) -> Value {
        json!({"error": self.0.message})
    }
}

impl From<ApiError> for OllamaError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for OllamaError {
    fn into_response(self) -> Response {
        let status = match self.0.status {
            // Its clients take 503 as the word to come again.
            StatusCode::TOO_MANY_REQUESTS => StatusCode::SERVICE_UNAVAILABLE,
            status => status,
        };
        let mut response = http::json(status, &self.body());
        if let Some(seconds) = self.0.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
