//! `mean_rows` on a GPU: few columns a thread, so that many threads read a long text.

use crate::cuda::{CudaDevice, Grid};
use crate::indices::Indices;
use crate::tensor::{View, ViewMut};

pub(super) fn mean_rows(
    cuda: &CudaDevice,
    out: &ViewMut,
    x: &View,
    starts: Indices,
    ends: Indices,
) {
    let is_aligned = out.is_aligned_to(4) && x.is_aligned_to(4) && x.cols().is_multiple_of(2);
    let (kernel, at_once) = if is_aligned { ("mean_rows_2", 2) } else { ("mean_rows_1", 1) };
    let (starts, ends) = (starts.on(cuda), ends.on(cuda));
    cuda.launch(
        kernel,
        Grid::of_rows(out.rows(), x.cols(), at_once),
        &[
            out.pointer().into(),
            x.pointer().into(),
            starts.pointer().into(),
            ends.pointer().into(),
            x.cols().into(),
            out.row_stride().into(),
            x.row_stride().into(),
        ],
    );
}
