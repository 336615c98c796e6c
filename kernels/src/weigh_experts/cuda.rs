//! `weigh_experts` on a GPU: 8 elements a thread where rows are aligned.

use crate::cuda::{CudaDevice, Grid};
use crate::route_experts::ExpertRouting;
use crate::tensor::ViewMut;

pub(super) fn weigh_experts(cuda: &CudaDevice, x: &ViewMut, routing: &ExpertRouting) {
    let is_aligned = x.is_aligned_to(16) && x.cols().is_multiple_of(8);
    let (kernel, at_once) =
        if is_aligned { ("weigh_experts_8", 8) } else { ("weigh_experts_1", 1) };
    let on_device = routing.on_cuda();
    cuda.launch(
        kernel,
        Grid::of_rows(routing.num_places(), x.cols(), at_once),
        &[
            x.pointer().into(),
            on_device.places.into(),
            on_device.weights.into(),
            x.cols().into(),
            x.row_stride().into(),
        ],
    );
}
