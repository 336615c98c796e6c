//! Floats that belong to a thread.

use std::cell::RefCell;

#[derive(Clone, Copy)]
#[repr(align(64))]
#[expect(dead_code, reason = "read through a slice of floats")]
struct Line([f32; FLOATS_OF_LINE]);

const FLOATS_OF_LINE: usize = 16;

/// Calls `run` with `len` floats that begin at a cache line. They belong to the thread and are allocated once.
pub(super) fn with_scratch(len: usize, run: impl FnOnce(&mut [f32])) {
    thread_local! {
        static LINES: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    }
    LINES.with_borrow_mut(|lines| {
        let num_lines = len.div_ceil(FLOATS_OF_LINE);
        if lines.len() < num_lines {
            lines.resize(num_lines, Line([0.0; FLOATS_OF_LINE]));
        }
        // SAFETY: a Line is floats without gaps, there are enough, and they are borrowed exclusively.
        run(unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) });
    });
}
