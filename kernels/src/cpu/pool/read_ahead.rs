//! What a thread will need next from memory: it is asked for while the thread waits for others.

use std::cell::Cell;
use std::ops::Range;

use crate::cpu::prefetch_lines;

/// Bytes that are asked for in one turn of a spin loop: few, so that the wait ends in time.
const BYTES_OF_TURN: usize = 256;

thread_local! {
    static NEXT: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Addresses that this thread has not asked for yet. Asking reads nothing, so they may point anywhere.
pub(crate) struct ReadAhead;

impl ReadAhead {
    pub(crate) fn set(bytes: &Range<*const u8>) {
        NEXT.set((bytes.start.addr(), bytes.end.addr()));
    }

    /// Asks for a little more; `false` when nothing is left.
    pub(super) fn step() -> bool {
        let (next, end) = NEXT.get();
        if next >= end {
            return false;
        }
        let after = end.min(next + BYTES_OF_TURN);
        prefetch_lines(std::ptr::without_provenance(next), after - next);
        NEXT.set((after, end));
        true
    }
}
