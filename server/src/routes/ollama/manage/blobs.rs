//! `HEAD` and `POST /api/blobs/:digest`: files for `create`.

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;

use super::{checked, library, on_disk};
use crate::app::SharedState;
use crate::error::ApiError;
use crate::routes::ollama::error::OllamaError;
use crate::store::{BlobDigest, BlobWriter};

/// The largest file that may be sent.
const MAX_BLOB: u64 = 1 << 40;

pub(crate) async fn has_blob(
    State(state): State<SharedState>,
    Path(digest): Path<String>,
) -> Result<Response, OllamaError> {
    let digest: BlobDigest = checked("digest", &digest)?;
    let has = library(&state)?.store().has_blob(&digest);
    Ok(if has { StatusCode::OK } else { StatusCode::NOT_FOUND }.into_response())
}

pub(crate) async fn put_blob(
    State(state): State<SharedState>,
    Path(digest): Path<String>,
    request: Request,
) -> Result<Response, OllamaError> {
    let digest: BlobDigest = checked("digest", &digest)?;
    let store = library(&state)?.store();
    if store.has_blob(&digest) {
        return Ok(StatusCode::OK.into_response());
    }
    let length = request.headers().get(header::CONTENT_LENGTH);
    let size: Option<u64> = length.and_then(|value| value.to_str().ok()?.parse().ok());
    let writer = on_disk(move || store.write_blob(size, MAX_BLOB)).await?;
    let writer = receive(request.into_body(), writer, &state).await?;
    on_disk(move || writer.finish(Some(&digest))).await?;
    Ok(StatusCode::CREATED.into_response())
}

/// Appends the body as it comes; each part must come within the time for a body.
async fn receive(
    body: Body,
    mut writer: BlobWriter,
    state: &SharedState,
) -> Result<BlobWriter, ApiError> {
    let mut parts = body.into_data_stream();
    let patience = state.config.limits.body_read_timeout;
    loop {
        let part = tokio::time::timeout(patience, parts.next()).await.map_err(|_| {
            let message = "the body did not arrive in time (--body-read-timeout)";
            ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
        })?;
        let Some(part) = part else { return Ok(writer) };
        let part = part.map_err(|_| ApiError::bad_request("the body broke off"))?;
        writer = on_disk(move || {
            writer.append(&part)?;
            Ok(writer)
        })
        .await?;
    }
}
