//! `layer_norm` on a GPU: a block a row.

use super::{Kept, LayerNorm};
use crate::cuda::{Argument, CudaDevice, Pointer, Structure};
use crate::rms_norm::Rows;
use crate::tensor::{View, ViewMut};

/// As in `layer_norm.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct LayerNormArgs {
    out: Pointer,
    residual: Pointer,
    x: Pointer,
    weight: Pointer,
    bias: Pointer,
    cols: i32,
    out_stride: i32,
    residual_stride: i32,
    x_stride: i32,
    eps: f32,
    pad: i32,
}

// SAFETY: five addresses, then six numbers of 32 bits, as in the source.
unsafe impl Structure for LayerNormArgs {}

pub(super) fn layer_norm(
    cuda: &CudaDevice,
    (out, residual): (&ViewMut, &ViewMut),
    x: Option<&View>,
    norm: LayerNorm,
    kept: Kept,
) {
    let is_aligned = out.is_aligned_to(16)
        && residual.is_aligned_to(16)
        && x.is_none_or(|x| x.is_aligned_to(16));
    let rows = Rows::new(out.rows(), out.cols(), is_aligned);
    let kernel = match (x, kept) {
        (None, _) => rows.kernel("layer_norm_1", "layer_norm_8"),
        (Some(_), Kept::Sum) => rows.kernel("add_layer_norm_1", "add_layer_norm_8"),
        (Some(_), Kept::Norm) => rows.kernel("post_layer_norm_1", "post_layer_norm_8"),
    };
    let int = |number: usize| i32::try_from(number).expect("a row fits an int");
    let args = LayerNormArgs {
        out: out.pointer(),
        residual: residual.pointer(),
        x: x.map_or(Pointer::NULL, View::pointer),
        weight: norm.weight.view().pointer(),
        bias: norm.bias.map_or(Pointer::NULL, |bias| bias.view().pointer()),
        cols: int(out.cols()),
        out_stride: int(out.row_stride()),
        residual_stride: int(residual.row_stride()),
        x_stride: x.map_or(0, |x| int(x.row_stride())),
        eps: norm.eps,
        pad: 0,
    };
    cuda.launch(kernel, rows.grid(), &[Argument::structure(&args)]);
}
