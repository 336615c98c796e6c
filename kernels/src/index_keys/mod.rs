//! The keys of an indexer: layer norm (Ba et al. 2016), rotary embedding, and the write into their pages
//! (DeepSeek-V3.2-Exp, "lightning indexer").

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::index_layer::IndexLayer;
use crate::indices::Indices;
use crate::rope_write_kv::RopeTable;
use crate::tensor::{DType, Tensor, View};

/// What to do with each row: `(x − mean) / √(variance + eps) · weight + bias`, then the rotation.
#[derive(Clone, Copy)]
pub struct IndexKeysArgs<'a> {
    /// `[1, head_dim]` F32, as `bias`.
    pub weight: &'a Tensor,
    pub bias: &'a Tensor,
    pub eps: f32,
    /// Position of each row; below `rope.num_positions()`.
    pub positions: Indices<'a>,
    /// block · block_size + offset of each row; u32::MAX writes nothing.
    pub slot_mapping: Indices<'a>,
    pub rope: &'a RopeTable,
}

/// `x`: `[rows, head_dim]` F32; its keys go to `layer`, rounded to its type.
pub fn index_keys(device: &Device, layer: &mut IndexLayer, x: View, args: &IndexKeysArgs) {
    let head_dim = layer.head_dim();
    assert_eq!((x.cols(), x.dtype()), (head_dim, DType::F32), "x");
    assert_eq!((args.positions.len(), args.slot_mapping.len()), (x.rows(), x.rows()), "rows");
    for vector in [args.weight, args.bias] {
        assert_eq!((vector.rows(), vector.cols()), (1, head_dim), "norm");
        assert_eq!(vector.dtype(), DType::F32, "norm");
    }
    assert!(args.rope.rotary_dim <= head_dim, "rotary_dim {} of {head_dim}", args.rope.rotary_dim);
    let (end, num_slots) = (args.rope.num_positions(), layer.num_blocks() * layer.block_size());
    assert!(args.positions.iter().all(|&p| (p as usize) < end), "beyond the rope table");
    let is_slot = |&slot: &u32| slot == u32::MAX || (slot as usize) < num_slots;
    assert!(args.slot_mapping.iter().all(is_slot), "a slot too high");
    match device {
        Device::Cpu(cpu) => cpu::index_keys(cpu, layer, x, args),
        Device::Cuda(cuda) => cuda::index_keys(cuda, layer, &x, args),
        Device::Trace(log) => {
            let (rows, rope) = (x.rows(), args.rope);
            let (style, rotary_dim, dtype) = (rope.style, rope.rotary_dim, layer.dtype());
            log.push(format!("index_keys {rows}x{head_dim}, {style:?} {rotary_dim}, {dtype:?}"));
        }
    }
}
