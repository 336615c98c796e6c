//! Asks for memory before it is used.

/// Bytes that memory moves at once.
pub(crate) const CACHE_LINE: usize = 64;

/// Asks for the cache line at `address`, which may be any.
#[inline(always)]
pub(crate) fn prefetch_line(address: *const u8) {
    // SAFETY: a prefetch changes no memory and faults nowhere, and SSE is part of x86-64.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for `bytes` from `start`, wherever that is.
#[inline]
pub(crate) fn prefetch_lines(start: *const u8, bytes: usize) {
    for offset in (0..bytes).step_by(CACHE_LINE) {
        prefetch_line(start.wrapping_add(offset));
    }
}
