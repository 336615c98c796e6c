//! Memory of the host that a GPU reads while the host goes on.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUevent, CUresult};

use super::driver::{check, expect};
use super::{Context, DeviceBuffer};
use crate::device::DeviceError;

/// Pinned bytes, and an event behind the last copy from them.
pub(crate) struct PinnedBuffer {
    context: Arc<Context>,
    address: *mut u8,
    bytes: usize,
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
        Ok(Self { context: Arc::clone(context), address: address.cast(), bytes, copied })
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
