//! Reads a JSON request body: content type, size, time and encoding.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::error::ApiError;
use crate::limits::ServerLimits;

/// What a request must say of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    Json,
    /// Anything, as from `curl -d`; but web pages, which say where they come from, must say JSON: for that a browser asks first.
    Any,
}

/// The whole body of a request, as text.
pub async fn read_json(
    request: Request,
    content_type: ContentType,
    limits: &ServerLimits,
) -> Result<String, ApiError> {
    let headers = request.headers();
    if content_type == ContentType::Json || headers.contains_key(header::ORIGIN) {
        check_content_type(headers)?;
    }
    check_encoding(headers)?;
    let bytes = read(request.into_body(), limits).await?;
    String::from_utf8(bytes.into()).map_err(|_| ApiError::bad_request("the body is not UTF-8"))
}

async fn read(body: Body, limits: &ServerLimits) -> Result<Bytes, ApiError> {
    let body = Limited::new(body, limits.max_body_bytes);
    match tokio::time::timeout(limits.body_read_timeout, body.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let limit = limits.max_body_bytes;
            let message = format!("the body is over the limit of {limit} bytes (--max-body-bytes)");
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Ok(Err(_)) => Err(ApiError::bad_request("the body broke off")),
        Err(_) => {
            let message = "the body did not arrive in time (--body-read-timeout)";
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = given.and_then(|value| value.split(';').next()).unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::bad_request("Unsupported Media Type: Only 'application/json' is allowed"))
}

/// What is small in transit and huge in memory is not taken at all.
fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            let message = "bodies must come without Content-Encoding: they are not decompressed";
            Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
        }
        _ => Ok(()),
    }
}
