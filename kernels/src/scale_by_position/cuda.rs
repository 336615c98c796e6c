//! `scale_by_position` on a GPU: 8 elements a thread where rows are aligned.

use crate::cuda::{CudaDevice, Grid};
use crate::indices::Indices;
use crate::tensor::{Tensor, ViewMut};

pub(super) fn scale_by_position(
    cuda: &CudaDevice,
    x: &ViewMut,
    positions: Indices,
    factors: &Tensor,
) {
    let (kernel, at_once) = match x.is_aligned_to(16) && x.cols().is_multiple_of(8) {
        true => ("scale_by_position_8", 8),
        false => ("scale_by_position_1", 1),
    };
    let positions = positions.on(cuda);
    cuda.launch(
        kernel,
        Grid::elementwise(x.rows(), x.cols(), at_once),
        &[
            x.pointer().into(),
            positions.pointer().into(),
            factors.view().pointer().into(),
            x.cols().into(),
            x.row_stride().into(),
        ],
    );
}
