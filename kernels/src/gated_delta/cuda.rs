//! `gated_delta` on a GPU: a block walks through the rows of some columns of one head of one sequence, then whole heads
//! are normed and gated.

use super::GatedDelta;
use crate::cuda::{Argument, CudaDevice, Grid, Pointer, Structure};
use crate::recurrent_layer::StateBatch;
use crate::tensor::{View, ViewMut};

/// Key channels that kernels are made for; a head takes the next one.
const KEY_DIMS: [usize; 5] = [16, 32, 64, 128, 256];

/// As in `gated_delta.cu`.
const THREADS: usize = 128;
const COLUMNS: usize = 32;

#[derive(Clone, Copy)]
#[repr(C)]
struct DeltaArgs {
    out: Pointer,
    qkv: Pointer,
    ba: Pointer,
    rates: Pointer,
    dt_bias: Pointer,
    states: Pointer,
    segments: Pointer,
    start_loc: Pointer,
    out_stride: i32,
    qkv_stride: i32,
    ba_stride: i32,
    key_heads: i32,
    value_heads: i32,
    key_dim: i32,
    value_dim: i32,
    is_tiled: i32,
    scale: f32,
    pad: i32,
}

// SAFETY: eight addresses, then ten numbers of 32 bits, as in the source.
unsafe impl Structure for DeltaArgs {}

pub(super) fn gated_delta(
    cuda: &CudaDevice,
    out: &ViewMut,
    qkv: &ViewMut,
    (z, ba): (&View, &View),
    args: &GatedDelta,
    matrices: &ViewMut,
    batch: &StateBatch,
) {
    let spec = args.spec;
    let keys = KEY_DIMS.into_iter().find(|&dim| spec.key_dim <= dim);
    let keys = keys.unwrap_or_else(|| panic!("key heads of {} channels", spec.key_dim));
    let int = |number: usize| i32::try_from(number).expect("sizes of a batch fit an int");
    let [segments, start_loc] = batch.on(cuda);
    let delta = DeltaArgs {
        out: out.pointer(),
        qkv: qkv.pointer(),
        ba: ba.pointer(),
        rates: args.rates.view().pointer(),
        dt_bias: args.dt_bias.view().pointer(),
        states: matrices.pointer(),
        segments: segments.pointer(),
        start_loc: start_loc.pointer(),
        out_stride: int(out.row_stride()),
        qkv_stride: int(qkv.row_stride()),
        ba_stride: int(ba.row_stride()),
        key_heads: int(spec.num_key_heads),
        value_heads: int(spec.num_value_heads),
        key_dim: int(spec.key_dim),
        value_dim: int(spec.value_dim),
        is_tiled: i32::from(spec.is_tiled),
        scale: 1.0 / (spec.key_dim as f32).sqrt(),
        pad: 0,
    };
    let tiles = spec.num_value_heads * spec.value_dim.div_ceil(COLUMNS);
    let blocks = [tiles, batch.num_sequences(), 1];
    let grid = Grid { blocks, threads: THREADS, shared_bytes: 0 };
    cuda.launch(&format!("gated_delta_{keys}"), grid, &[Argument::structure(&delta)]);
    norm_and_gate(cuda, out, z, args);
}

/// A warp a head of a row.
fn norm_and_gate(cuda: &CudaDevice, out: &ViewMut, z: &View, args: &GatedDelta) {
    let spec = args.spec;
    let is_aligned = out.is_aligned_to(8) && z.is_aligned_to(8) && spec.value_dim.is_multiple_of(4);
    let kernel = if is_aligned { "gated_delta_norm_4" } else { "gated_delta_norm_1" };
    let blocks = [spec.num_value_heads.div_ceil(THREADS / 32), out.rows(), 1];
    cuda.launch(
        kernel,
        Grid { blocks, threads: THREADS, shared_bytes: 0 },
        &[
            out.pointer().into(),
            z.pointer().into(),
            args.norm.view().pointer().into(),
            spec.num_value_heads.into(),
            spec.value_dim.into(),
            out.row_stride().into(),
            z.row_stride().into(),
            args.eps.into(),
        ],
    );
}
