//! Reads a JSON request body: content type, size, time, encoding, and how much memory all of them may take.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;
use crate::limits::ServerLimits;

/// What a request must say of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    Json,
    /// Anything, as from `curl -d`; but web pages, which say where they come from, must say JSON: for that a browser asks first.
    Any,
}

/// The whole body of a request, as text, and its share of `memory`.
pub(crate) async fn read_json(
    request: Request,
    content_type: ContentType,
    limits: &ServerLimits,
    memory: &BodiesMemory,
) -> Result<(String, BodyShare), ApiError> {
    let headers = request.headers();
    if content_type == ContentType::Json || headers.contains_key(header::ORIGIN) {
        check_content_type(headers)?;
    }
    check_encoding(headers)?;
    let reading = read(request.into_body(), limits, memory);
    let in_time = tokio::time::timeout(limits.body_read_timeout, reading).await;
    let (bytes, share) = in_time.map_err(|_| {
        let message = "the body did not arrive in time (--body-read-timeout)";
        ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
    })??;
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| ApiError::bad_request("the body is not UTF-8"))?;
    Ok((text, share))
}

/// Reads a short body that nobody needs, so that its connection can go on; it is closed before a longer one.
pub(crate) async fn discard(request: Request, limits: &ServerLimits) {
    const MOST_BYTES: u64 = 64 << 10;
    let headers = request.headers();
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let is_short = length.and_then(|text| text.parse().ok()).is_some_and(|n: u64| n <= MOST_BYTES);
    // One that waits for a word before it sends its body keeps it.
    if is_short && !headers.contains_key(header::EXPECT) {
        let mut body = request.into_body();
        let end = async { while let Some(Ok(_)) = body.frame().await {} };
        let _ = tokio::time::timeout(limits.body_read_timeout, end).await;
    }
}

async fn read(
    body: Body,
    limits: &ServerLimits,
    memory: &BodiesMemory,
) -> Result<(Vec<u8>, BodyShare), ApiError> {
    let limit = limits.max_body_bytes;
    let too_large = || {
        let message = format!("the body is over the limit of {limit} bytes (--max-body-bytes)");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    // Who says how much comes is told before it comes.
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut body = Limited::new(body, limit);
    let (mut bytes, mut share) = (Vec::new(), BodyShare::default());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.is::<LengthLimitError>() {
            true => too_large(),
            false => ApiError::bad_request("the body broke off"),
        })?;
        if let Ok(data) = frame.into_data() {
            share.grow_to(bytes.len() + data.len(), memory)?;
            bytes.extend_from_slice(&data);
        }
    }
    Ok((bytes, share))
}

/// Bytes that large bodies may take together, until they are parsed.
pub(crate) struct BodiesMemory {
    arriving: Arc<Semaphore>,
    /// As much again for the messages of gRPC, which are decoded before anything of them is looked at.
    decoded: Arc<Semaphore>,
    num_units: usize,
}

/// What one body has of it, in units.
#[derive(Default)]
pub(crate) struct BodyShare(Option<OwnedSemaphorePermit>);

impl BodiesMemory {
    const UNIT: usize = 1 << 10;
    /// Smaller bodies are not counted: connections bound them.
    const SMALL: usize = 64 << 10;
    /// What a byte of a message of gRPC may become: six are a map of one entry, which takes 650.
    const DECODED: usize = 128;

    pub(crate) fn new(limits: &ServerLimits) -> Self {
        let num_bytes = limits.bodies_memory.max(limits.max_body_bytes);
        let num_units = num_bytes.div_ceil(Self::UNIT).min(Semaphore::MAX_PERMITS);
        let units = || Arc::new(Semaphore::new(num_units));
        Self { arriving: units(), decoded: units(), num_units }
    }

    /// Waits for the memory of a decoded message of so many bytes; one of the largest has all of it.
    pub(crate) fn room_for_decoded(
        &self,
        num_bytes: usize,
    ) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send + use<> {
        let num_units = num_bytes.saturating_mul(Self::DECODED).div_ceil(Self::UNIT);
        let num_units = u32::try_from(num_units.min(self.num_units)).unwrap_or(u32::MAX);
        let decoded = Arc::clone(&self.decoded);
        async move { decoded.acquire_many_owned(num_units).await.ok() }
    }
}

impl BodyShare {
    fn grow_to(&mut self, num_bytes: usize, memory: &BodiesMemory) -> Result<(), ApiError> {
        match num_bytes <= BodiesMemory::SMALL {
            true => Ok(()),
            false => self.count_to(num_bytes, memory),
        }
    }

    /// Takes what is missing for so many bytes.
    pub(crate) fn count_to(
        &mut self,
        num_bytes: usize,
        memory: &BodiesMemory,
    ) -> Result<(), ApiError> {
        let has = self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = num_bytes.div_ceil(BodiesMemory::UNIT) - has;
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&memory.arriving).try_acquire_many_owned(more) else {
            let message = "large requests take all of --bodies-memory";
            return Err(ApiError::unavailable(message, 1));
        };
        match &mut self.0 {
            Some(own) => own.merge(permit),
            own => *own = Some(permit),
        }
        Ok(())
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
