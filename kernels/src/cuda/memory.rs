//! Memory of a GPU, and copies between it and the host in the order of the stream.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};

use super::driver::{check, expect};
use super::{Context, Pointer};
use crate::device::DeviceError;

/// Bytes on a GPU, aligned to `ALIGNMENT`.
pub(crate) struct DeviceBuffer {
    context: Arc<Context>,
    address: u64,
    bytes: usize,
    /// The allocation that it is a part of, unless it is one itself.
    whole: Option<Arc<DeviceBuffer>>,
}

const ALIGNMENT: usize = 256;

impl DeviceBuffer {
    /// Zeroed.
    pub(crate) fn zeroed(context: &Arc<Context>, bytes: usize) -> Result<Self, DeviceError> {
        context.bind();
        let mut address = 0;
        if bytes > 0 {
            // SAFETY: the context is current; the memory is given back in `drop`.
            match unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) } {
                CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                    return Err(DeviceError::OutOfMemory { bytes });
                }
                result => check("cuMemAlloc", result)?,
            }
        }
        let buffer = Self { context: Arc::clone(context), address, bytes, whole: None };
        if bytes > 0 {
            // SAFETY: the memory was just taken.
            check("cuMemsetD8Async", unsafe {
                sys::cuMemsetD8Async(address, 0, bytes, context.stream())
            })?;
        }
        Ok(buffer)
    }

    /// Zeroed, on the same GPU.
    pub(crate) fn beside(&self, bytes: usize) -> Result<Self, DeviceError> {
        Self::zeroed(&self.context, bytes)
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn pointer(&self) -> Pointer {
        Pointer(self.address)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies `from` to the bytes that begin at `start`; `from` may change when this returns.
    pub(crate) fn write(&self, start: usize, from: &[u8]) {
        assert!(start <= self.bytes && from.len() <= self.bytes - start, "beyond the buffer");
        if from.is_empty() {
            return;
        }
        let (to, stream) = (self.address + start as u64, self.context.stream());
        // SAFETY: inside the buffer; the driver has taken bytes that are not pinned when it returns.
        expect("cuMemcpyHtoDAsync", unsafe {
            sys::cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), from.len(), stream)
        });
    }

    /// Sets bytes to 0, after everything that was launched.
    pub(crate) fn clear(&self, start: usize, bytes: usize) {
        assert!(start <= self.bytes && bytes <= self.bytes - start, "beyond the buffer");
        if bytes > 0 {
            let (at, stream) = (self.address + start as u64, self.context.stream());
            // SAFETY: inside the buffer.
            expect("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(at, 0, bytes, stream) });
        }
    }

    /// The bytes that begin at `start`, after everything that was launched.
    pub(crate) fn read(&self, start: usize, to: &mut [u8]) {
        assert!(start <= self.bytes && to.len() <= self.bytes - start, "beyond the buffer");
        if to.is_empty() {
            return;
        }
        let (from, stream) = (self.address + start as u64, self.context.stream());
        // SAFETY: inside the buffer; `to` is borrowed until the stream is done.
        expect("cuMemcpyDtoHAsync", unsafe {
            sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, to.len(), stream)
        });
        self.context.synchronize();
    }
}

/// Sets `cols` numbers of 32 bits to 0 in each of `rows` rows, which begin at `at` and lie `stride` numbers apart.
pub(crate) fn clear_columns(
    context: &Context,
    at: Pointer,
    (rows, cols): (usize, usize),
    stride: usize,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    let stream = context.stream();
    // SAFETY: who calls has a view of these numbers; they live until the stream is done with them.
    expect("cuMemsetD2D32Async", unsafe {
        sys::cuMemsetD2D32Async(at.0, 4 * stride, 0, cols, rows, stream)
    });
}

impl DeviceBuffer {
    /// Copies bytes of `from`, which may be this buffer, after everything that was launched.
    pub(crate) fn copy(&self, start: usize, from: &Self, from_start: usize, bytes: usize) {
        assert!(
            start + bytes <= self.bytes && from_start + bytes <= from.bytes,
            "beyond the buffer"
        );
        if bytes == 0 {
            return;
        }
        let (to, source) = (self.address + start as u64, from.address + from_start as u64);
        // SAFETY: inside both buffers, which live until the driver has freed them behind this copy.
        expect("cuMemcpyDtoDAsync", unsafe {
            sys::cuMemcpyDtoDAsync_v2(to, source, bytes, self.context.stream())
        });
    }

    /// A copy of each of the buffers, all in one allocation: the driver gives memory in pieces of megabytes.
    pub(crate) fn in_one(buffers: &[&mut Self]) -> Result<Vec<Self>, DeviceError> {
        let context = &buffers.first().expect("some buffers").context;
        let room = |bytes: usize| bytes.next_multiple_of(ALIGNMENT);
        let total = buffers.iter().map(|buffer| room(buffer.bytes)).sum();
        let whole = Arc::new(Self::zeroed(context, total)?);
        let mut start = 0;
        let part = |buffer: &&mut Self| {
            whole.copy(start, buffer, 0, buffer.bytes);
            let address = whole.address + start as u64;
            start += room(buffer.bytes);
            let (context, whole) = (Arc::clone(context), Some(Arc::clone(&whole)));
            Self { context, address, bytes: buffer.bytes, whole }
        };
        Ok(buffers.iter().map(part).collect())
    }

    /// `bytes` of those of `from`, again and again.
    pub(crate) fn repeating(
        context: &Arc<Context>,
        from: &Self,
        bytes: usize,
    ) -> Result<Self, DeviceError> {
        let all = Self::zeroed(context, bytes)?;
        let mut filled = from.bytes.min(bytes);
        all.copy(0, from, 0, filled);
        while filled < bytes {
            let more = filled.min(bytes - filled);
            all.copy(filled, &all, 0, more);
            filled += more;
        }
        Ok(all)
    }

    /// All bytes of the buffers, one after the other.
    pub(crate) fn concatenated(buffers: &[&Self]) -> Result<Self, DeviceError> {
        let context = &buffers.first().expect("some buffers").context;
        let all = Self::zeroed(context, buffers.iter().map(|buffer| buffer.bytes).sum())?;
        let mut start = 0;
        for buffer in buffers {
            all.copy(start, buffer, 0, buffer.bytes);
            start += buffer.bytes;
        }
        Ok(all)
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.address != 0 && self.whole.is_none() {
            self.context.bind();
            // SAFETY: nobody else has the address; the driver waits for work that uses it. After a fault of the device
            // this fails too, and there is nothing to do about it.
            unsafe {
                let _ = sys::cuMemFree_v2(self.address);
            }
        }
    }
}
