//! `embedding` on a GPU: rows of a table of BF16.

use crate::cuda::{CudaDevice, Grid};
use crate::indices::Indices;
use crate::linear::LinearWeight;
use crate::tensor::ViewMut;

pub(super) fn embedding(
    cuda: &CudaDevice,
    out: &ViewMut,
    ids: Indices,
    table: &LinearWeight,
    scale: f32,
) {
    let rows = table.cuda_rows().view();
    let cols = out.cols();
    let is_aligned = out.is_aligned_to(16) && rows.is_aligned_to(16) && cols.is_multiple_of(8);
    let (kernel, at_once) = if is_aligned { ("embedding_8", 8) } else { ("embedding_1", 1) };
    let ids = ids.on(cuda);
    cuda.launch(
        kernel,
        Grid::elementwise(out.rows(), cols, at_once),
        &[
            out.pointer().into(),
            rows.pointer().into(),
            ids.pointer().into(),
            cols.into(),
            out.row_stride().into(),
            scale.into(),
        ],
    );
}
