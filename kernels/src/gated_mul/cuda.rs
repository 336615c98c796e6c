//! `gated_mul` on a GPU: 8 elements a thread where rows are aligned.

use super::Activation;
use crate::cuda::{CudaDevice, Grid};
use crate::tensor::{View, ViewMut};

pub(super) fn gated_mul(cuda: &CudaDevice, out: &ViewMut, gate_up: &View, activation: Activation) {
    let cols = out.cols();
    let is_aligned = out.is_aligned_to(16) && gate_up.is_aligned_to(16) && cols.is_multiple_of(8);
    let (kernel, at_once) = match (activation, is_aligned) {
        (Activation::Silu, true) => ("silu_mul_8", 8),
        (Activation::Silu, false) => ("silu_mul_1", 1),
        (Activation::Gelu, true) => ("gelu_mul_8", 8),
        (Activation::Gelu, false) => ("gelu_mul_1", 1),
        (Activation::GeluTanh, true) => ("gelu_tanh_mul_8", 8),
        (Activation::GeluTanh, false) => ("gelu_tanh_mul_1", 1),
        (Activation::ClampedSwiglu { .. }, true) => ("clamped_swiglu_8", 8),
        (Activation::ClampedSwiglu { .. }, false) => ("clamped_swiglu_1", 1),
    };
    let (alpha, limit) = match activation {
        Activation::ClampedSwiglu { alpha, limit } => (alpha, limit),
        Activation::Silu | Activation::Gelu | Activation::GeluTanh => (1.0, f32::INFINITY),
    };
    cuda.launch(
        kernel,
        // With experts there are more rows than tokens.
        Grid::of_rows(out.rows(), cols, at_once),
        &[
            out.pointer().into(),
            gate_up.pointer().into(),
            cols.into(),
            out.row_stride().into(),
            gate_up.row_stride().into(),
            alpha.into(),
            limit.into(),
        ],
    );
}
