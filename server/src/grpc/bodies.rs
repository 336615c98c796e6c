//! What requests take of `--bodies-memory`: as they come, and as messages until they are converted. tonic decodes a message as soon as
//! it is whole, so its last bytes wait here until there is room for what they become.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::StatusCode;
use hyper::body::Frame;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::Status;

use crate::app::{AppState, SharedState};
use crate::error::ApiError;
use crate::http::body::BodyShare;

/// Requests up to this size are not counted: the call itself takes as much.
const SMALL: usize = 4 << 10;

/// A message's flag and length, which come before it.
const PREFIX: usize = 5;

/// What one request holds; it goes with the work that converts it.
#[derive(Clone, Default)]
pub(super) struct Held(Arc<Mutex<Shares>>);

#[derive(Default)]
struct Shares {
    arriving: BodyShare,
    decoded: Option<OwnedSemaphorePermit>,
}

/// Waits for the memory of a decoded message.
type Room = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

/// The body of a call of one message.
struct CountedBody {
    inner: Body,
    state: SharedState,
    held: Held,
    prefix: Vec<u8>,
    num_bytes: usize,
    /// For the whole body.
    deadline: Pin<Box<Sleep>>,
    /// The end of the message, and what it waits for.
    last: Option<(Bytes, Room)>,
}

/// `request`, whose body is counted.
pub(super) fn counted(state: &SharedState, request: Request) -> Request {
    let held = Held::default();
    let (mut parts, inner) = request.into_parts();
    parts.extensions.insert(held.clone());
    let body = CountedBody {
        inner,
        state: Arc::clone(state),
        held,
        prefix: Vec::with_capacity(PREFIX),
        num_bytes: 0,
        deadline: Box::pin(tokio::time::sleep(state.config.limits.body_read_timeout)),
        last: None,
    };
    Request::from_parts(parts, Body::new(body))
}

impl Held {
    /// What `request` holds.
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_default()
    }

    /// Runs `work`, to which the request has been given, and holds nothing any more.
    pub(super) async fn convert<T: Send + 'static>(
        self,
        state: &AppState,
        num_bytes: usize,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let work = move || {
            let result = work();
            drop(self);
            result
        };
        state.prepare(num_bytes, work).await
    }
}

impl CountedBody {
    /// The next bytes, unless what they end must wait.
    fn take(&mut self, data: Bytes) -> Result<Option<Bytes>, Status> {
        let was_whole = self.is_whole();
        let missing = PREFIX - self.prefix.len();
        self.prefix.extend_from_slice(&data[..missing.min(data.len())]);
        self.num_bytes += data.len();
        if was_whole && !data.is_empty() {
            return Err(Status::unimplemented("this method takes one message"));
        }
        if self.num_bytes <= SMALL {
            return Ok(Some(data));
        }
        let memory = &self.state.bodies_memory;
        self.held.0.lock().arriving.count_to(self.num_bytes, memory)?;
        if was_whole || !self.is_whole() {
            return Ok(Some(data));
        }
        let room = memory.room_for_decoded(self.num_bytes);
        self.last = Some((data, Box::pin(room)));
        Ok(None)
    }

    fn is_whole(&self) -> bool {
        let length = self.prefix.get(1..PREFIX).and_then(|bytes| bytes.try_into().ok());
        length.is_some_and(|bytes| self.num_bytes - PREFIX >= u32::from_be_bytes(bytes) as usize)
    }

    fn poll_last(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some((data, room)) = &mut self.last else { return Poll::Ready(None) };
        self.held.0.lock().decoded = ready!(room.as_mut().poll(cx));
        let data = std::mem::take(data);
        self.last = None;
        Poll::Ready(Some(data))
    }
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            if let Some(data) = ready!(this.poll_last(cx)) {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(end) => return Poll::Ready(end.map(|end| end.map_err(BoxError::from))),
                Poll::Pending => {
                    ready!(this.deadline.as_mut().poll(cx));
                    let message = "the request did not arrive in time (--body-read-timeout)";
                    let late = ApiError::new(StatusCode::REQUEST_TIMEOUT, message);
                    return Poll::Ready(Some(Err(Status::from(late).into())));
                }
            };
            let passed = match frame.into_data() {
                Ok(data) => this.take(data).map(|data| data.map(Frame::data)),
                Err(other) => Ok(Some(other)),
            };
            if let Some(passed) = passed.map_err(BoxError::from).transpose() {
                return Poll::Ready(Some(passed));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none() && self.inner.is_end_stream()
    }
}
