//! A stream of messages that ends its request when the client leaves it unread. On HTTP/2 the socket tells nothing: it goes
//! on carrying other streams.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::Stream;
use parking_lot::Mutex;
use tonic::Status;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// `messages` up to the first error, dropped when there is more to send and nobody asks for it within `timeout`: the peer's window is full.
pub(super) fn watched<T: Send + 'static>(
    messages: impl Stream<Item = Result<T, Status>> + Send + 'static,
    timeout: Duration,
) -> Messages<T> {
    let demand = Arc::new(Demand::default());
    let state = State { messages: Some(Box::pin(messages)), is_cut: false };
    let state = Arc::new(Mutex::new(state));
    tokio::spawn(watch(Arc::downgrade(&state), Arc::clone(&demand), timeout));
    Box::pin(Watched { state, waker: Waker::from(Arc::clone(&demand)), demand })
}

struct Watched<T> {
    state: Arc<Mutex<State<T>>>,
    demand: Arc<Demand>,
    /// Of `demand`.
    waker: Waker,
}

struct State<T> {
    /// `None` once it has ended.
    messages: Option<Messages<T>>,
    is_cut: bool,
}

/// Stands between the messages and the transport, and sees when the transport does not come although it was woken.
#[derive(Default)]
struct Demand {
    transport: Mutex<Option<Waker>>,
    /// Since when there is something to fetch.
    ready_since: Mutex<Option<Instant>>,
}

impl Demand {
    fn note_ready(&self) {
        self.ready_since.lock().get_or_insert_with(Instant::now);
    }
}

impl Wake for Demand {
    fn wake(self: Arc<Self>) {
        self.note_ready();
        let transport = self.transport.lock().clone();
        if let Some(transport) = transport {
            transport.wake();
        }
    }
}

impl<T> Stream for Watched<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.is_cut) {
            let message = "the stream was not read for too long (--slow-client-timeout)";
            return Poll::Ready(Some(Err(Status::aborted(message))));
        }
        let Some(messages) = &mut state.messages else { return Poll::Ready(None) };
        self.demand.transport.lock().replace(cx.waker().clone());
        // Before the messages are asked: what wakes from now on is news.
        *self.demand.ready_since.lock() = None;
        let poll = messages.as_mut().poll_next(&mut Context::from_waker(&self.waker));
        match poll {
            Poll::Ready(Some(Ok(_))) => self.demand.note_ready(),
            Poll::Ready(Some(Err(_)) | None) => state.messages = None,
            Poll::Pending => {}
        }
        poll
    }
}

/// Looks twice a timeout, until the stream is gone.
async fn watch<T>(state: Weak<Mutex<State<T>>>, demand: Arc<Demand>, timeout: Duration) {
    loop {
        tokio::time::sleep(timeout / 2).await;
        let Some(state) = state.upgrade() else { return };
        let mut state = state.lock();
        let waited = demand.ready_since.lock().map(|since| since.elapsed());
        if waited.is_some_and(|waited| waited >= timeout) {
            // Dropping them cancels the request.
            state.is_cut = state.messages.take().is_some();
            return;
        }
    }
}
