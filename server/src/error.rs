//! `ApiError`: everything a client can be told went wrong, in the shape of OpenAI's error object.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use quire_engine::request::SubmitError;
use quire_engine::validate::InvalidRequest;
use serde_json::{Value, json};

/// `{"error": {"message", "type", "param", "code"}}` with a status. `code` is the status where no better word exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub status: StatusCode,
    pub message: String,
    pub kind: &'static str,
    pub param: Option<Cow<'static, str>>,
    pub code: Option<&'static str>,
    /// Seconds, for the header `Retry-After`.
    pub retry_after: Option<u64>,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = kind_of(status);
        Self { status, message: message.into(), kind, param: None, code: None, retry_after: None }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A 400 that blames the field `param`.
    pub fn invalid(param: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::bad_request(message) }
    }

    pub fn model_not_found(name: &str) -> Self {
        let message = format!("the model `{}` does not exist", shortened(name));
        let error = Self::new(StatusCode::NOT_FOUND, message);
        Self { param: Some("model".into()), code: Some("model_not_found"), ..error }
    }

    pub fn unauthorized() -> Self {
        let message = "a valid API key is needed: Authorization: Bearer <key>";
        let error = Self::new(StatusCode::UNAUTHORIZED, message);
        Self { code: Some("invalid_api_key"), ..error }
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// A 503 that passes by itself.
    pub fn unavailable(message: impl Into<String>, retry_after: u64) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, message);
        Self { retry_after: Some(retry_after), ..error }
    }

    pub fn loading() -> Self {
        Self::unavailable("the model is loading", 5)
    }

    /// The request took longer than it may.
    pub fn deadline_exceeded() -> Self {
        let message = "the request took longer than its deadline";
        let error = Self::new(StatusCode::GATEWAY_TIMEOUT, message);
        Self { code: Some("deadline_exceeded"), ..error }
    }

    pub fn engine_stopped() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the engine has stopped")
    }

    /// The engine's refusal. `retry_after`: seconds until the queue has moved.
    pub fn from_submit(error: SubmitError, retry_after: u64) -> Self {
        match error {
            SubmitError::Invalid(invalid) => invalid.into(),
            SubmitError::QueueFull { .. } => {
                let full = Self::unavailable(error.to_string(), retry_after);
                Self { code: Some("queue_full"), ..full }
            }
            SubmitError::Draining => Self::unavailable(error.to_string(), retry_after),
            SubmitError::Stopped => Self::engine_stopped(),
        }
    }

    /// The body of the response, also sent as an event of a stream that has begun.
    pub fn body(&self) -> Value {
        let code = self.code.map_or_else(|| json!(self.status.as_u16()), |code| json!(code));
        json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": code,
        }})
    }
}

impl From<InvalidRequest> for ApiError {
    fn from(invalid: InvalidRequest) -> Self {
        let code = invalid.is_context_length.then_some("context_length_exceeded");
        Self { code, ..Self::invalid(invalid.param, invalid.message) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = crate::http::json(self.status, &self.body());
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// What a client sent, cut to a length that is safe to repeat in a message.
pub fn shortened(text: &str) -> Cow<'_, str> {
    const MAX_CHARS: usize = 80;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

fn kind_of(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "AuthenticationError",
        403 => "PermissionDeniedError",
        404 => "NotFoundError",
        405 => "MethodNotAllowedError",
        408 | 504 => "RequestTimeoutError",
        409 => "ConflictError",
        413 => "PayloadTooLargeError",
        415 => "UnsupportedMediaTypeError",
        429 => "RateLimitError",
        500 => "InternalServerError",
        501 => "NotImplementedError",
        503 => "ServiceUnavailableError",
        _ => "BadRequestError",
    }
}
