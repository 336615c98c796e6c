//! Whole numbers that a step brings along (token ids, positions, slots): on the host, and on a GPU there too.

use std::ops::{Deref, Range};

use crate::cuda::{CudaDevice, DeviceBuffer, Pointer};
use crate::tensor::{DType, Tensor};

/// A slice of `u32`. Ops on a GPU read the copy that was uploaded with the step; where there is none they make one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Indices<'a> {
    host: &'a [u32],
    on_cuda: Option<Pointer>,
}

impl<'a> Indices<'a> {
    /// `host`, and the same numbers at element `first` of a U32 tensor; a tensor of the host is not looked at.
    pub fn with_copy(host: &'a [u32], copy: &'a Tensor, first: usize) -> Self {
        assert!(copy.dtype() == DType::U32 && first + host.len() <= copy.rows() * copy.cols());
        let on_cuda = copy.is_on_cuda().then(|| {
            let Pointer(start) = copy.view().pointer();
            Pointer(start + (first * DType::U32.size()) as u64)
        });
        Self { host, on_cuda }
    }

    /// The same, of which a GPU has a copy there.
    pub(crate) fn at(self, pointer: Pointer) -> Self {
        Self { on_cuda: Some(pointer), ..self }
    }

    /// The numbers on the host.
    pub fn host(&self) -> &'a [u32] {
        self.host
    }

    /// Those of `range` alone.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let start = (range.start * DType::U32.size()) as u64;
        Self {
            host: &self.host[range],
            on_cuda: self.on_cuda.map(|Pointer(first)| Pointer(first + start)),
        }
    }

    /// The numbers on `cuda`.
    pub(crate) fn on(&self, cuda: &CudaDevice) -> UploadedIndices {
        if let Some(pointer) = self.on_cuda {
            return UploadedIndices { pointer, _copy: None };
        }
        let buffer = DeviceBuffer::zeroed(cuda.context(), size_of_val(self.host))
            .expect("the numbers of a test fit the GPU");
        let bytes: Vec<u8> = self.host.iter().flat_map(|number| number.to_le_bytes()).collect();
        buffer.write(0, &bytes);
        UploadedIndices { pointer: Pointer(buffer.address()), _copy: Some(buffer) }
    }
}

/// Numbers on a GPU; a copy that was made for one op lives as long as this.
pub(crate) struct UploadedIndices {
    pointer: Pointer,
    _copy: Option<DeviceBuffer>,
}

impl UploadedIndices {
    pub(crate) fn pointer(&self) -> Pointer {
        self.pointer
    }
}

impl Deref for Indices<'_> {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        self.host
    }
}

impl<'a> From<&'a [u32]> for Indices<'a> {
    fn from(host: &'a [u32]) -> Self {
        Self { host, on_cuda: None }
    }
}

impl<'a, const N: usize> From<&'a [u32; N]> for Indices<'a> {
    fn from(host: &'a [u32; N]) -> Self {
        Self::from(host.as_slice())
    }
}

impl<'a> From<&'a Vec<u32>> for Indices<'a> {
    fn from(host: &'a Vec<u32>) -> Self {
        Self::from(host.as_slice())
    }
}
