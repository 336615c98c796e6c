//! `ApiError` as a gRPC status, with the details of google.rpc.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::ApiError;

/// Whose codes `ErrorInfo` carries.
const DOMAIN: &str = "quire";

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let mut details = ErrorDetails::new();
        if let Some(param) = &error.param {
            details.add_bad_request_violation(param.clone(), error.message.clone());
        }
        if let Some(seconds) = error.retry_after {
            details.set_retry_info(Some(Duration::from_secs(seconds)));
        }
        details.set_error_info(error.code.unwrap_or(error.kind), DOMAIN, HashMap::new());
        Self::with_error_details(code_of(error.status.as_u16()), error.message, details)
    }
}

/// The code that means what the HTTP status means.
fn code_of(status: u16) -> Code {
    match status {
        400 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        408 | 504 => Code::DeadlineExceeded,
        409 => Code::AlreadyExists,
        413 | 429 => Code::ResourceExhausted,
        501 => Code::Unimplemented,
        503 => Code::Unavailable,
        _ => Code::Internal,
    }
}
