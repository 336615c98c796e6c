//! `gather_rows` on a GPU: bytes move, whatever they mean.

use crate::cuda::{CudaDevice, Grid};
use crate::indices::Indices;
use crate::tensor::{View, ViewMut};

pub(super) fn gather_rows(cuda: &CudaDevice, out: &ViewMut, x: &View, rows: Indices) {
    let size = x.dtype().size();
    let row_bytes = x.cols() * size;
    let is_aligned = out.is_aligned_to(16) && x.is_aligned_to(16);
    let (kernel, at_once) = match is_aligned && row_bytes.is_multiple_of(16) {
        true => ("gather_rows_16", 16),
        false => ("gather_rows_2", 2),
    };
    let cols = row_bytes / at_once;
    let uploaded = rows.on(cuda);
    cuda.launch(
        kernel,
        Grid::elementwise(rows.len(), cols, 1),
        &[
            out.pointer().into(),
            x.pointer().into(),
            uploaded.pointer().into(),
            cols.into(),
            (out.row_stride() * size / at_once).into(),
            (x.row_stride() * size / at_once).into(),
        ],
    );
}
