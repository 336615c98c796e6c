//! `rope_write_kv` on a GPU: a warp a head of a row. k and v are left in `qkv` as they were; only their pages are read.

use super::{RopeStyle, RopeWriteKv};
use crate::cuda::{CudaDevice, Grid, Pointer};
use crate::kv_layer::KvLayer;
use crate::tensor::{DType, Tensor, ViewMut};

/// Heads of a block.
const WARPS: usize = 4;

pub(super) fn rope_write_kv(
    cuda: &CudaDevice,
    qkv: &ViewMut,
    cache: Option<&mut KvLayer>,
    args: &RopeWriteKv,
) {
    let none = (Pointer(0), Pointer(0), 1, DType::BF16);
    let (keys, values, block_size, dtype) = cache.map_or(none, |cache| {
        (cache.key_pointer(), cache.value_pointer(), cache.block_size(), cache.dtype())
    });
    assert!(matches!(dtype, DType::BF16 | DType::F8E4M3), "pages of {dtype:?} on CUDA");
    let num_heads = args.num_q_heads + 2 * args.num_kv_heads;
    let (positions, slots) = (args.positions.on(cuda), args.slot_mapping.on(cuda));
    let pointer = |tensor: Option<&Tensor>| tensor.map_or(Pointer(0), |t| t.view().pointer());
    let rope = args.rope;
    let style = match rope.map(|rope| rope.style) {
        Some(RopeStyle::Interleaved) => 1,
        _ => 0,
    };
    let blocks = [qkv.rows(), num_heads.div_ceil(WARPS), 1];
    cuda.launch(
        "rope_write_kv",
        Grid { blocks, threads: 32 * WARPS, shared_bytes: 0 },
        &[
            qkv.pointer().into(),
            keys.into(),
            values.into(),
            positions.pointer().into(),
            slots.pointer().into(),
            pointer(rope.map(|rope| &rope.cos)).into(),
            pointer(rope.map(|rope| &rope.sin)).into(),
            pointer(args.norm.map(|norm| norm.q)).into(),
            pointer(args.norm.map(|norm| norm.k)).into(),
            pointer(args.norm.and_then(|norm| norm.v)).into(),
            qkv.row_stride().into(),
            args.num_q_heads.into(),
            args.num_kv_heads.into(),
            args.head_dim.into(),
            rope.map_or(0, |rope| rope.rotary_dim / 2).into(),
            style.into(),
            block_size.into(),
            usize::from(dtype == DType::F8E4M3).into(),
            args.norm.map_or(0.0, |norm| norm.eps).into(),
        ],
    );
}
