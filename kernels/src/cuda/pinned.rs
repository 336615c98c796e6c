//! Memory of the host that a GPU reads and writes while the host goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::{self, CUevent, CUresult};

use super::driver::{check, expect};
use super::{Context, DeviceBuffer, Pointer};
use crate::device::DeviceError;

/// Pinned bytes, and an event behind the last copy from or to them.
pub(crate) struct PinnedBuffer {
    context: Arc<Context>,
    address: *mut u8,
    bytes: usize,
    /// Bytes that copies since `restart` use.
    filled: usize,
    copied: CUevent,
}

// SAFETY: the memory and the event are this buffer's alone.
unsafe impl Send for PinnedBuffer {}

impl PinnedBuffer {
    pub(crate) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, DeviceError> {
        context.bind();
        let (mut address, mut copied) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the context is current; both are given back in `drop`.
        unsafe {
            match sys::cuMemHostAlloc(&raw mut address, bytes.max(1), 0) {
                CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                    return Err(DeviceError::OutOfMemory { bytes });
                }
                result => check("cuMemHostAlloc", result)?,
            }
            let without_timing = 2;
            check("cuEventCreate", sys::cuEventCreate(&raw mut copied, without_timing))?;
        }
        Ok(Self { context: Arc::clone(context), address: address.cast(), bytes, filled: 0, copied })
    }

    /// Waits for the copies of before, and begins anew.
    pub(crate) fn restart(&mut self) {
        self.context.bind();
        // SAFETY: the event lives as long as the buffer; one that was never recorded is done.
        expect("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.copied) });
        self.filled = 0;
    }

    /// Copies `from` to the bytes of `to` from `start` on, through bytes not used since `restart`, or from the beginning
    /// when there are none left.
    pub(crate) fn copy(&mut self, mut from: &[u8], to: &DeviceBuffer, mut start: usize) {
        assert!(start <= to.bytes() && from.len() <= to.bytes() - start, "beyond the buffer");
        while !from.is_empty() {
            if self.filled == self.bytes {
                self.finish();
                self.restart();
            }
            let (now, later) = from.split_at(from.len().min(self.bytes - self.filled));
            let stream = self.context.stream();
            // SAFETY: inside both buffers; no copy uses these bytes of the host before the next `restart`.
            unsafe {
                let through = self.address.add(self.filled);
                std::ptr::copy_nonoverlapping(now.as_ptr(), through, now.len());
                let address = to.address() + start as u64;
                let result = sys::cuMemcpyHtoDAsync_v2(address, through.cast(), now.len(), stream);
                expect("cuMemcpyHtoDAsync", result);
            }
            self.filled += now.len();
            start += now.len();
            from = later;
        }
    }

    /// Copies the first bytes of `from` behind those received since `restart`.
    pub(crate) fn receive(&mut self, from: &DeviceBuffer, bytes: usize) {
        assert!(bytes <= from.bytes() && bytes <= self.bytes - self.filled, "beyond the buffer");
        if bytes > 0 {
            let stream = self.context.stream();
            // SAFETY: inside both buffers; nobody reads these bytes of the host before `wait`.
            expect("cuMemcpyDtoHAsync", unsafe {
                let to = self.address.add(self.filled);
                sys::cuMemcpyDtoHAsync_v2(to.cast(), from.address(), bytes, stream)
            });
            self.filled += bytes;
        }
    }

    /// Marks the end of the copies since `restart`.
    pub(crate) fn finish(&mut self) {
        let stream = self.context.stream();
        // SAFETY: event and stream live.
        expect("cuEventRecord", unsafe { sys::cuEventRecord(self.copied, stream) });
    }

    /// The bytes received between `restart` and `finish`, when they are there.
    pub(crate) fn wait(&self) -> &[u8] {
        self.context.bind();
        // SAFETY: the event is behind the copies; nothing is copied here before the next `restart`, which needs `self`.
        unsafe {
            expect("cuEventSynchronize", sys::cuEventSynchronize(self.copied));
            std::slice::from_raw_parts(self.address, self.filled)
        }
    }

    /// Fills the first numbers with `arrays`, one after the other, and copies them to the beginning of `to`. Waits for
    /// the copy before this one from the same buffer.
    pub(crate) fn send<'a>(&mut self, arrays: impl Iterator<Item = &'a [u32]>, to: &DeviceBuffer) {
        let stream = self.context.stream();
        // SAFETY: the event lives as long as the buffer; one that was never recorded is done.
        expect("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.copied) });
        let mut filled = 0;
        for array in arrays {
            let bytes = size_of_val(array);
            assert!(bytes <= self.bytes - filled, "a step has more numbers than were planned");
            // SAFETY: inside the buffer, which no copy reads any more.
            unsafe {
                let to = self.address.add(filled);
                std::ptr::copy_nonoverlapping(array.as_ptr().cast::<u8>(), to, bytes);
            }
            filled += bytes;
        }
        if filled == 0 {
            return;
        }
        assert!(filled <= to.bytes(), "beyond the buffer");
        // SAFETY: inside both buffers; the event is behind the copy, and nobody writes here before it.
        unsafe {
            let result =
                sys::cuMemcpyHtoDAsync_v2(to.address(), self.address.cast(), filled, stream);
            expect("cuMemcpyHtoDAsync", result);
            expect("cuEventRecord", sys::cuEventRecord(self.copied, stream));
        }
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        self.context.bind();
        // SAFETY: behind the last copy nobody reads the memory. At the end errors are of no use any more.
        unsafe {
            let _ = sys::cuEventSynchronize(self.copied);
            let _ = sys::cuEventDestroy_v2(self.copied);
            let _ = sys::cuMemFreeHost(self.address.cast());
        }
    }
}

/// A word of the host's memory that a kernel of this GPU reads while it runs; 0 at first.
pub(crate) struct PinnedWord {
    context: Arc<Context>,
    address: *mut AtomicU32,
}

// SAFETY: the word is only used as an atomic.
unsafe impl Send for PinnedWord {}
// SAFETY: as above.
unsafe impl Sync for PinnedWord {}

impl PinnedWord {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        context.bind();
        let mut address = std::ptr::null_mut();
        // SAFETY: the context is current; the word, aligned to a page, is given back in `drop`.
        unsafe {
            let bytes = size_of::<AtomicU32>();
            check("cuMemHostAlloc", sys::cuMemHostAlloc(&raw mut address, bytes, 0))?;
            address.cast::<AtomicU32>().write(AtomicU32::new(0));
        }
        Ok(Self { context: Arc::clone(context), address: address.cast() })
    }

    pub(crate) fn set(&self, value: u32) {
        // SAFETY: the word lives as long as `self`.
        unsafe { &*self.address }.store(value, Ordering::Release);
    }

    /// Host and GPU have one address space.
    pub(crate) fn pointer(&self) -> Pointer {
        Pointer(self.address as u64)
    }
}

impl Drop for PinnedWord {
    fn drop(&mut self) {
        self.context.bind();
        // SAFETY: no kernel that reads it runs any more: who drops it has waited for them. Errors are of no use.
        unsafe {
            let _ = sys::cuMemFreeHost(self.address.cast());
        }
    }
}
