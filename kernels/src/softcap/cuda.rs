//! `softcap` on a GPU: 8 elements a thread where rows are aligned.

use crate::cuda::{CudaDevice, Grid};
use crate::tensor::ViewMut;

pub(super) fn softcap(cuda: &CudaDevice, x: &ViewMut, cap: f32) {
    let is_aligned = x.is_aligned_to(16) && x.cols().is_multiple_of(8);
    let (kernel, at_once) = if is_aligned { ("softcap_8", 8) } else { ("softcap_1", 1) };
    cuda.launch(
        kernel,
        Grid::elementwise(x.rows(), x.cols(), at_once),
        &[x.pointer().into(), x.cols().into(), x.row_stride().into(), cap.into()],
    );
}
