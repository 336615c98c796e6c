//! What a kernel is called with: numbers, addresses of device memory and structures, each with its size.

/// One argument of a kernel.
#[derive(Clone, Copy)]
pub(crate) struct Argument<'a> {
    bits: u64,
    bytes: usize,
    structure: Option<&'a [u8]>,
}

/// A type that a kernel takes by value.
///
/// # Safety
/// It is `repr(C)` with the fields of the structure of that name in the kernel's source, and has no padding.
pub(crate) unsafe trait Structure: Copy {}

/// An address of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Pointer(pub u64);

impl Pointer {
    pub(crate) const NULL: Self = Self(0);

    /// The address so many bytes behind this one.
    pub(crate) fn add(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// The bytes of structures, to be copied to the device.
pub(crate) fn bytes_of<T: Structure>(structures: &[T]) -> &[u8] {
    // SAFETY: a `Structure` has no padding.
    unsafe { std::slice::from_raw_parts(structures.as_ptr().cast(), size_of_val(structures)) }
}

/// Words as the device reads them.
pub(crate) fn word_bytes(words: &[u32]) -> &[u8] {
    // SAFETY: numbers have no padding.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

impl<'a> Argument<'a> {
    pub(crate) fn structure<T: Structure>(structure: &'a T) -> Self {
        let bytes = bytes_of(std::slice::from_ref(structure));
        Self { bits: 0, bytes: bytes.len(), structure: Some(bytes) }
    }

    /// Where the driver reads it; valid while `self` is borrowed.
    pub(super) fn address(&self) -> *mut std::ffi::c_void {
        match self.structure {
            Some(bytes) => bytes.as_ptr().cast_mut().cast(),
            None => (&raw const self.bits).cast_mut().cast(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

// The lower bytes come first in memory on every machine that CUDA runs on.
impl From<Pointer> for Argument<'_> {
    fn from(pointer: Pointer) -> Self {
        Self { bits: pointer.0, bytes: 8, structure: None }
    }
}

impl From<u64> for Argument<'_> {
    fn from(value: u64) -> Self {
        Self { bits: value, bytes: 8, structure: None }
    }
}

impl From<u32> for Argument<'_> {
    fn from(value: u32) -> Self {
        Self { bits: u64::from(value), bytes: 4, structure: None }
    }
}

impl From<i32> for Argument<'_> {
    fn from(value: i32) -> Self {
        Self::from(value as u32)
    }
}

/// Counts and sizes are `int` in kernels.
impl From<usize> for Argument<'_> {
    fn from(value: usize) -> Self {
        Self::from(i32::try_from(value).expect("sizes of one launch fit an int"))
    }
}

impl From<f32> for Argument<'_> {
    fn from(value: f32) -> Self {
        Self::from(value.to_bits())
    }
}
