//! What TMA is told of a matrix: where it lies, its rows, the box that is copied.

use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType as DataType, CUtensorMapFloatOOBfill as Outside,
    CUtensorMapInterleave as Interleave, CUtensorMapL2promotion as Promotion,
    CUtensorMapSwizzle as Mode,
};

use super::driver::expect;
use super::{Argument, DeviceBuffer, Structure};

/// How chunks of 16 bytes are mixed within spans of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swizzle {
    None,
    Bytes32,
    Bytes64,
    Bytes128,
}

/// A tensor map, which kernels take by value.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct TensorMap(CUtensorMap);

// SAFETY: 128 bytes that the driver fills; kernels take them as `CUtensorMap`.
unsafe impl Structure for TensorMap {}

impl TensorMap {
    /// Of the BF16 matrix `[rows, cols]` at the beginning of `buffer`; boxes of `[rows, cols]`.
    pub(crate) fn of_bf16(
        buffer: &DeviceBuffer,
        [rows, cols]: [usize; 2],
        [box_rows, box_cols]: [usize; 2],
        swizzle: Swizzle,
    ) -> Self {
        assert!(2 * rows * cols <= buffer.bytes(), "beyond the buffer");
        let mut map = CUtensorMap { opaque: [0; 16] };
        let (sizes, strides) = ([cols as u64, rows as u64], [2 * cols as u64]);
        let (lengths, steps) = ([box_cols as u32, box_rows as u32], [1, 1]);
        let mode = match swizzle {
            Swizzle::None => Mode::CU_TENSOR_MAP_SWIZZLE_NONE,
            Swizzle::Bytes32 => Mode::CU_TENSOR_MAP_SWIZZLE_32B,
            Swizzle::Bytes64 => Mode::CU_TENSOR_MAP_SWIZZLE_64B,
            Swizzle::Bytes128 => Mode::CU_TENSOR_MAP_SWIZZLE_128B,
        };
        // SAFETY: the arrays have as many entries as the rank says; the driver only encodes them.
        expect("cuTensorMapEncodeTiled", unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                DataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                std::ptr::without_provenance_mut(buffer.address() as usize),
                sizes.as_ptr(),
                strides.as_ptr(),
                lengths.as_ptr(),
                steps.as_ptr(),
                Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                mode,
                Promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                Outside::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        });
        Self(map)
    }

    pub(crate) fn argument(&self) -> Argument<'_> {
        Argument::structure(self)
    }
}
