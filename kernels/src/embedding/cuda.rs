//! `embedding` on a GPU: rows of a table, dequantized on the way.

use crate::cuda::CudaDevice;
use crate::indices::Indices;
use crate::linear::{LinearWeight, gather_on_cuda};
use crate::tensor::ViewMut;

pub(super) fn embedding(
    cuda: &CudaDevice,
    out: &ViewMut,
    ids: Indices,
    table: (&LinearWeight, usize),
    scale: f32,
) {
    gather_on_cuda(cuda, out, ids, table, scale);
}
