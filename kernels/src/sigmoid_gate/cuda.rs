//! `sigmoid_gate` on a GPU: 8 elements a thread where rows are aligned.

use crate::cuda::{CudaDevice, Grid};
use crate::tensor::{View, ViewMut};

pub(super) fn sigmoid_gate(cuda: &CudaDevice, x: &ViewMut, gate: &View) {
    let is_aligned = x.is_aligned_to(16) && gate.is_aligned_to(16) && x.cols().is_multiple_of(8);
    let (kernel, at_once) = if is_aligned { ("sigmoid_gate_8", 8) } else { ("sigmoid_gate_1", 1) };
    cuda.launch(
        kernel,
        Grid::elementwise(x.rows(), x.cols(), at_once),
        &[
            x.pointer().into(),
            gate.pointer().into(),
            x.cols().into(),
            x.row_stride().into(),
            gate.row_stride().into(),
        ],
    );
}
