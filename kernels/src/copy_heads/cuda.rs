//! `copy_heads` on a GPU: 8 elements a thread where heads are aligned.

use super::CopyHeads;
use crate::cuda::{CudaDevice, Grid};
use crate::tensor::{DType, View, ViewMut};

pub(super) fn copy_heads(cuda: &CudaDevice, out: &ViewMut, x: &View, heads: CopyHeads) {
    let CopyHeads { num_heads, width, out_stride, x_stride } = heads;
    let is_aligned = out.is_aligned_to(16) && x.is_aligned_to(16);
    let is_wide = is_aligned && [width, out_stride, x_stride].iter().all(|n| n.is_multiple_of(8));
    let (kernel, at_once) = match (x.dtype(), out.dtype(), is_wide) {
        (DType::F32, DType::F32, true) => ("copy_heads_f32_to_f32_8", 8),
        (DType::F32, DType::F32, false) => ("copy_heads_f32_to_f32_1", 1),
        (DType::F32, _, true) => ("copy_heads_f32_8", 8),
        (DType::F32, _, false) => ("copy_heads_f32_1", 1),
        (_, DType::F32, true) => ("copy_heads_to_f32_8", 8),
        (_, DType::F32, false) => ("copy_heads_to_f32_1", 1),
        (_, _, true) => ("copy_heads_8", 8),
        (_, _, false) => ("copy_heads_1", 1),
    };
    cuda.launch(
        kernel,
        Grid::elementwise(x.rows(), num_heads * width, at_once),
        &[
            out.pointer().into(),
            x.pointer().into(),
            num_heads.into(),
            width.into(),
            out_stride.into(),
            x_stride.into(),
            out.row_stride().into(),
            x.row_stride().into(),
        ],
    );
}
