//! `combine_experts` on a GPU: 8 elements a thread where rows are aligned.

use super::SharedExpert;
use crate::cuda::{Argument, CudaDevice, Grid, Pointer, Structure};
use crate::route_experts::ExpertRouting;
use crate::tensor::{View, ViewMut};

/// As in `combine_experts.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct CombineArgs {
    out: Pointer,
    x: Pointer,
    shared: Pointer,
    gate: Pointer,
    places: Pointer,
    weights: Pointer,
    cols: i32,
    num_chosen: i32,
    out_stride: i32,
    x_stride: i32,
    shared_stride: i32,
    gate_stride: i32,
}

// SAFETY: six addresses, then six numbers of 32 bits, as in the source.
unsafe impl Structure for CombineArgs {}

pub(super) fn combine_experts(
    cuda: &CudaDevice,
    out: &ViewMut,
    x: &View,
    routing: &ExpertRouting,
    weighted: bool,
    shared: Option<&SharedExpert>,
) {
    let gate = shared.and_then(|shared| shared.gate);
    let pointer = |view: Option<View>| view.map_or(Pointer::NULL, |view| view.pointer());
    let stride = |view: Option<View>| view.map_or(0, |view| int(view.row_stride()));
    let shared = shared.map(|shared| shared.out);
    let on_device = routing.on_cuda();
    let args = CombineArgs {
        out: out.pointer(),
        x: x.pointer(),
        shared: pointer(shared),
        gate: pointer(gate),
        places: on_device.places,
        weights: if weighted { on_device.weights } else { Pointer::NULL },
        cols: int(out.cols()),
        num_chosen: int(routing.num_chosen()),
        out_stride: int(out.row_stride()),
        x_stride: int(x.row_stride()),
        shared_stride: stride(shared),
        gate_stride: stride(gate),
    };
    let is_aligned = out.cols().is_multiple_of(8)
        && out.is_aligned_to(16)
        && x.is_aligned_to(16)
        && shared.is_none_or(|shared| shared.is_aligned_to(16));
    let (kernel, at_once) = match is_aligned {
        true => ("combine_experts_8", 8),
        false => ("combine_experts_1", 1),
    };
    let grid = Grid::elementwise(out.rows(), out.cols(), at_once);
    cuda.launch(kernel, grid, &[Argument::structure(&args)]);
}

fn int(number: usize) -> i32 {
    i32::try_from(number).expect("sizes of one launch fit an int")
}
