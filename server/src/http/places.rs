//! Places under the limit of connections. One that waits for its next request gives its place to a connection that finds none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

/// The places of one listener.
pub(super) struct Places {
    limit: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    count: usize,
    /// Numbers in the order in which connections began to wait.
    next: u64,
    waiting: BTreeMap<u64, Arc<Holder>>,
}

/// A connection's place, free again when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Place(Arc<Holder>);

struct Holder {
    taken: Arc<Mutex<Taken>>,
    /// Another connection has the place.
    is_evicted: AtomicBool,
    waker: AtomicWaker,
}

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, taken: Arc::default() }
    }

    /// A free place, or that of the connection that waits longest for its next request. `None`: all are at work.
    pub(super) fn take(&self) -> Option<Place> {
        let mut taken = self.taken.lock();
        if taken.count < self.limit {
            taken.count += 1;
        } else {
            let (_, oldest) = taken.waiting.pop_first()?;
            oldest.is_evicted.store(true, Ordering::Release);
            oldest.waker.wake();
        }
        drop(taken);
        let (taken, is_evicted) = (Arc::clone(&self.taken), AtomicBool::new(false));
        Some(Place(Arc::new(Holder { taken, is_evicted, waker: AtomicWaker::new() })))
    }
}

impl Place {
    /// The connection may be closed as long as the answer lives.
    pub(super) fn wait(&self) -> Waiting {
        let mut taken = self.0.taken.lock();
        let number = taken.next;
        taken.next += 1;
        if !self.0.is_evicted.load(Ordering::Acquire) {
            taken.waiting.insert(number, Arc::clone(&self.0));
        }
        drop(taken);
        Waiting { place: self.clone(), number }
    }

    /// Whether another connection has the place; if not, the task is woken when one takes it.
    pub(super) fn is_lost(&self, cx: &Context<'_>) -> bool {
        self.0.waker.register(cx.waker());
        self.0.is_evicted.load(Ordering::Acquire)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if !*self.is_evicted.get_mut() {
            self.taken.lock().count -= 1;
        }
    }
}

/// A connection between two requests.
pub(super) struct Waiting {
    place: Place,
    number: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // The place has another owner, so no holder is dropped under the lock.
        self.place.0.taken.lock().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::{Place, Places};

    fn is_lost(place: &Place) -> bool {
        place.is_lost(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn who_waits_longest_gives_way_and_who_works_does_not() {
        let places = Places::new(3);
        let [first, second, third] = [(); 3].map(|()| places.take().expect("there is room"));
        assert!(places.take().is_none(), "nobody waits");
        let waits = (second.wait(), first.wait());
        let fourth = places.take().expect("the second gives way");
        assert_eq!([&first, &second, &third, &fourth].map(is_lost), [false, true, false, false]);
        drop(waits);
        assert!(places.take().is_none(), "the first has a request now");
        let again = second.wait();
        assert!(places.take().is_none(), "no place is given away twice");
        drop((again, second));
        assert!(places.take().is_none());
        drop(third);
        assert!(places.take().is_some());
    }
}
