//! `activate` on a GPU: 8 elements a thread where rows are aligned.

use crate::cuda::{CudaDevice, Grid};
use crate::gated_mul::Activation;
use crate::tensor::{View, ViewMut};

pub(super) fn activate(cuda: &CudaDevice, out: &ViewMut, x: &View, activation: Activation) {
    let cols = out.cols();
    let is_aligned = out.is_aligned_to(16) && x.is_aligned_to(16) && cols.is_multiple_of(8);
    let (kernel, at_once) = match (activation, is_aligned) {
        (Activation::Silu, true) => ("silu_8", 8),
        (Activation::Silu, false) => ("silu_1", 1),
        (Activation::Gelu, true) => ("gelu_8", 8),
        (Activation::Gelu, false) => ("gelu_1", 1),
        (Activation::GeluTanh, true) => ("gelu_tanh_8", 8),
        (Activation::GeluTanh, false) => ("gelu_tanh_1", 1),
        (Activation::ClampedSwiglu { .. }, _) => {
            unreachable!("the op asserts that there is no gate")
        }
    };
    cuda.launch(
        kernel,
        Grid::of_rows(out.rows(), cols, at_once),
        &[
            out.pointer().into(),
            x.pointer().into(),
            cols.into(),
            out.row_stride().into(),
            x.row_stride().into(),
        ],
    );
}
