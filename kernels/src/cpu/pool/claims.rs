//! Who computes which item: each thread has a contiguous share, and takes from the others' when its own is done.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of a counter that hold the number of items taken; the others hold the epoch, which lasts for years.
const ITEM_BITS: u32 = 24;

/// Items of a phase, at most.
pub(super) const MAX_ITEMS: usize = (1 << ITEM_BITS) - 1;

/// A value with a cache line of its own, so that threads do not wait for each other's counters.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Alone<T>(pub T);

/// For each thread, how many items of its share are taken. A counter of an earlier epoch counts as zero, so nobody has to
/// reset them.
pub(super) struct Claims {
    taken: Vec<Alone<AtomicU64>>,
}

impl Claims {
    pub(super) fn new(num_threads: usize) -> Self {
        Self { taken: (0..num_threads).map(|_| Alone::default()).collect() }
    }

    /// Calls `compute` with items until none is left to take.
    pub(super) fn for_each(
        &self,
        thread: usize,
        epoch: u64,
        num_items: usize,
        mut compute: impl FnMut(usize),
    ) {
        let num_threads = self.taken.len();
        for other in (thread..num_threads).chain(0..thread) {
            let share = share(other, num_threads, num_items);
            while let Some(index) = self.take(other, epoch, share.len()) {
                compute(share.start + index);
            }
        }
    }

    /// The next item of a share of `len`.
    fn take(&self, share: usize, epoch: u64, len: usize) -> Option<usize> {
        let counter = &self.taken[share].0;
        let first = epoch << ITEM_BITS;
        let mut seen = counter.load(Ordering::Relaxed);
        loop {
            // A later epoch: the others went on, so nothing is left of this one.
            let taken = seen.saturating_sub(first);
            if taken as usize >= len {
                return None;
            }
            let next = first + taken + 1;
            match counter.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(taken as usize),
                Err(now) => seen = now,
            }
        }
    }
}

/// The part of `0..num_items` that begins at thread `thread` of `num_threads`.
pub(crate) fn share(thread: usize, num_threads: usize, num_items: usize) -> Range<usize> {
    thread * num_items / num_threads..(thread + 1) * num_items / num_threads
}
