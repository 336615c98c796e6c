//! `add_rows` on a GPU: 4 elements a thread where rows are aligned.

use crate::cuda::{CudaDevice, Grid, Pointer};
use crate::indices::{Indices, UploadedIndices};
use crate::tensor::{View, ViewMut};

pub(super) fn add_rows(cuda: &CudaDevice, x: &ViewMut, table: &View, rows: Option<Indices>) {
    let is_aligned = x.is_aligned_to(16) && table.is_aligned_to(16) && x.cols().is_multiple_of(4);
    let (kernel, at_once) = if is_aligned { ("add_rows_4", 4) } else { ("add_rows_1", 1) };
    let rows = rows.map(|rows| rows.on(cuda));
    cuda.launch(
        kernel,
        Grid::of_rows(x.rows(), x.cols(), at_once),
        &[
            x.pointer().into(),
            table.pointer().into(),
            rows.as_ref().map_or(Pointer::NULL, UploadedIndices::pointer).into(),
            x.cols().into(),
            x.row_stride().into(),
            table.row_stride().into(),
        ],
    );
}
