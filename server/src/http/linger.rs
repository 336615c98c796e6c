//! Takes in for a while what a refused request still sends: of a socket closed at once its sender sees a reset, and never the reason.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::limits::ServerLimits;

/// After this long without a byte nobody sends any more.
const SILENCE: Duration = Duration::from_secs(2);

/// A socket that, when it is closed with a request unread, reads and forgets until its peer closes too.
pub(super) struct Linger<S> {
    inner: S,
    is_unread: Arc<AtomicBool>,
    most_bytes: usize,
    most_time: Duration,
    end: Option<End>,
}

/// Both sides have been told that no more comes from here.
struct End {
    deadline: Instant,
    silence: Pin<Box<Sleep>>,
    num_bytes: usize,
}

impl<S> Linger<S> {
    /// Takes as long as a body may, and four of the largest bodies.
    pub(super) fn new(inner: S, limits: &ServerLimits) -> Self {
        let (most_bytes, most_time) =
            (limits.max_body_bytes.saturating_mul(4), limits.body_read_timeout);
        Self { inner, is_unread: Arc::default(), most_bytes, most_time, end: None }
    }

    /// Set by a `WatchedBody` that was not read to its end, until the next head is waited for.
    pub(super) fn is_unread(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_unread)
    }
}

impl<S: AsyncRead + Unpin> Linger<S> {
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let most_time = self.most_time;
        let end = self.end.get_or_insert_with(|| End {
            deadline: Instant::now() + most_time,
            silence: Box::pin(tokio::time::sleep(SILENCE.min(most_time))),
            num_bytes: 0,
        });
        let mut bytes = [0; 8 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.inner).poll_read(cx, &mut buffer) {
                Poll::Pending => return end.silence.as_mut().poll(cx),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => end.num_bytes += buffer.filled().len(),
            }
            let now = Instant::now();
            let is_over = now >= end.deadline || end.num_bytes > self.most_bytes;
            if buffer.filled().is_empty() || is_over {
                return Poll::Ready(());
            }
            end.silence.as_mut().reset(end.deadline.min(now + SILENCE));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Linger<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Linger<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end.is_none() {
            ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        }
        match self.is_unread.load(Relaxed) {
            true => self.poll_rest(cx).map(Ok),
            false => Poll::Ready(Ok(())),
        }
    }
}

/// A request's body that tells its connection when it is dropped before its end.
pub(super) struct WatchedBody<B: HttpBody> {
    inner: B,
    has_ended: bool,
    is_unread: Arc<AtomicBool>,
}

impl<B> WatchedBody<B>
where
    B: HttpBody<Data = Bytes, Error: Into<axum::BoxError>> + Send + Unpin + 'static,
{
    pub(super) fn wrap(inner: B, is_unread: &Arc<AtomicBool>) -> Body {
        Body::new(Self { inner, has_ended: false, is_unread: Arc::clone(is_unread) })
    }
}

impl<B: HttpBody + Unpin> HttpBody for WatchedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        self.has_ended |= frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: HttpBody> Drop for WatchedBody<B> {
    fn drop(&mut self) {
        if !self.has_ended && !self.inner.is_end_stream() {
            self.is_unread.store(true, Relaxed);
        }
    }
}
