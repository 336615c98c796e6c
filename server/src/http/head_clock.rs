//! How long a connection may wait for its next request, and how long a head may take once its first byte is there.
//!
//! hyper has one timer for both, which it starts when it begins to wait. This is that timer, told of the bytes that come.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

use super::places::{Place, Waiting};
use crate::limits::ServerLimits;

/// The timer of one connection.
#[derive(Clone)]
pub(super) struct HeadClock {
    /// Bytes have come since it was last cleared.
    has_read: Arc<AtomicBool>,
    had_request: Arc<AtomicBool>,
    /// Of the request before: read after all, or there would be no next.
    is_unread: Arc<AtomicBool>,
    place: Place,
    idle: Duration,
    head: Duration,
}

impl HeadClock {
    /// `has_read`: set whenever bytes come.
    pub(super) fn new(
        has_read: Arc<AtomicBool>,
        is_unread: Arc<AtomicBool>,
        place: Place,
        limits: &ServerLimits,
    ) -> Self {
        let (idle, head) = (limits.idle_timeout, limits.header_read_timeout);
        Self { has_read, had_request: Arc::default(), is_unread, place, idle, head }
    }
}

impl Timer for HeadClock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    /// Called when the wait for a head begins; `deadline` is that of a head.
    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        // Who connects has something to ask: only between requests a connection may be idle.
        let is_idle = self.had_request.swap(true, Relaxed);
        self.has_read.store(false, Relaxed);
        self.is_unread.store(false, Relaxed);
        let deadline = if is_idle { Instant::now() + self.idle } else { deadline };
        let sleep = Box::pin(tokio::time::sleep_until(deadline.into()));
        let waiting = is_idle.then(|| self.place.wait());
        Box::pin(HeadSleep { sleep, waiting, clock: self.clone() })
    }
}

/// Done when the connection has waited too long, or its place is another's.
struct HeadSleep {
    sleep: Pin<Box<tokio::time::Sleep>>,
    /// Until the first byte of a head is there.
    waiting: Option<Waiting>,
    clock: HeadClock,
}

impl Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    /// hyper asks after each read that did not complete a head.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.clock.place.is_lost(cx) {
            return Poll::Ready(());
        }
        if self.waiting.is_some() && self.clock.has_read.load(Relaxed) {
            self.waiting = None;
            let deadline = Instant::now() + self.clock.head;
            self.sleep.as_mut().reset(deadline.into());
        }
        self.sleep.as_mut().poll(cx)
    }
}
