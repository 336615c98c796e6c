//! `sandwich_norm` on a GPU: a block a row.

use super::SandwichNorm;
use crate::cuda::CudaDevice;
use crate::rms_norm::Rows;
use crate::tensor::{DType, View, ViewMut};

pub(super) fn sandwich_norm(
    cuda: &CudaDevice,
    out: &ViewMut,
    residual: &ViewMut,
    x: &View,
    norm: SandwichNorm,
) {
    let is_aligned = out.is_aligned_to(16) && residual.is_aligned_to(16) && x.is_aligned_to(16);
    let rows = Rows::new(x.rows(), x.cols(), is_aligned);
    let kernel = match residual.dtype() {
        DType::F32 => rows.kernel("sandwich_norm_1", "sandwich_norm_8"),
        _ => rows.kernel("sandwich_norm_bf16_1", "sandwich_norm_bf16_8"),
    };
    cuda.launch(
        kernel,
        rows.grid(),
        &[
            out.pointer().into(),
            residual.pointer().into(),
            x.pointer().into(),
            norm.post_weight.view().pointer().into(),
            norm.weight.view().pointer().into(),
            x.cols().into(),
            out.row_stride().into(),
            residual.row_stride().into(),
            x.row_stride().into(),
            norm.scale.into(),
            norm.eps.into(),
        ],
    );
}
