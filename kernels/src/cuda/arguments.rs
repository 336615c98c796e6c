//! What a kernel is called with: numbers and addresses of device memory, each with its size.

/// One argument of a kernel.
#[derive(Clone, Copy)]
pub(crate) struct Argument {
    bits: u64,
    bytes: usize,
}

/// An address of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pointer(pub u64);

impl Argument {
    /// Where the driver reads it; valid while `self` is borrowed.
    pub(super) fn address(&self) -> *mut std::ffi::c_void {
        (&raw const self.bits).cast_mut().cast()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

// The lower bytes come first in memory on every machine that CUDA runs on.
impl From<Pointer> for Argument {
    fn from(pointer: Pointer) -> Self {
        Self { bits: pointer.0, bytes: 8 }
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Self { bits: value, bytes: 8 }
    }
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        Self { bits: u64::from(value), bytes: 4 }
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Self::from(value as u32)
    }
}

/// Counts and sizes are `int` in kernels.
impl From<usize> for Argument {
    fn from(value: usize) -> Self {
        Self::from(i32::try_from(value).expect("sizes of one launch fit an int"))
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::from(value.to_bits())
    }
}
