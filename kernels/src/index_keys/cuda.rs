//! `index_keys` on a GPU: a warp a row.

use super::IndexKeysArgs;
use crate::cuda::{Argument, CudaDevice, Grid, Pointer, Structure};
use crate::index_layer::IndexLayer;
use crate::rope_write_kv::RopeStyle;
use crate::tensor::{DType, View};

/// Rows of a block.
const WARPS: usize = 4;

/// `IndexKeys` in `index_keys.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct KernelArgs {
    keys: Pointer,
    x: Pointer,
    weight: Pointer,
    bias: Pointer,
    cos: Pointer,
    sin: Pointer,
    positions: Pointer,
    slots: Pointer,
    rows: i32,
    x_stride: i32,
    head_dim: i32,
    half: i32,
    style: i32,
    eps: f32,
}

// SAFETY: eight addresses, then six numbers of 32 bits, as in the source.
unsafe impl Structure for KernelArgs {}

pub(super) fn index_keys(
    cuda: &CudaDevice,
    layer: &mut IndexLayer,
    x: &View,
    args: &IndexKeysArgs,
) {
    assert_eq!(layer.dtype(), DType::BF16, "pages on CUDA");
    let (positions, slots) = (args.positions.on(cuda), args.slot_mapping.on(cuda));
    let [cos, sin] = args.rope.pointers();
    let int = |number: usize| i32::try_from(number).expect("sizes of a step fit an int");
    let kernel_args = KernelArgs {
        keys: layer.pointer(),
        x: x.pointer(),
        weight: args.weight.view().pointer(),
        bias: args.bias.view().pointer(),
        cos,
        sin,
        positions: positions.pointer(),
        slots: slots.pointer(),
        rows: int(x.rows()),
        x_stride: int(x.row_stride()),
        head_dim: int(layer.head_dim()),
        half: int(args.rope.rotary_dim / 2),
        style: i32::from(args.rope.style == RopeStyle::Interleaved),
        eps: args.eps,
    };
    let grid = Grid::new(x.rows().div_ceil(WARPS), 32 * WARPS);
    cuda.launch("index_keys", grid, &[Argument::structure(&kernel_args)]);
}
