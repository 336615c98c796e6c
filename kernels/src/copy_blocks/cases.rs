//! Shapes that test and time `copy_blocks`.

use super::{copy_blocks, reference};
use crate::cases::{Case, Kind, Work, in_place, random_activations};
use crate::device::Device;
use crate::kv_layer::{KvLayer, cuda_dtype, rounded};
use crate::rope_write_kv::{RopeWriteKv, rope_write_kv};
use crate::tensor::DType;

const NUM_BLOCKS: usize = 6;
/// A chain, a block onto itself, and one source for two.
const COPIES: [(u32, u32); 5] = [(0, 3), (3, 5), (2, 2), (1, 0), (1, 4)];

pub fn cases() -> Vec<Case> {
    vec![
        case(DType::F32, 8, 1, 16),
        case(DType::F16, 16, 3, 64),
        case(DType::BF16, 32, 2, 80),
        case(DType::F8E4M3, 16, 2, 32),
    ]
}

fn case(dtype: DType, block_size: usize, num_kv_heads: usize, head_dim: usize) -> Case {
    let num_slots = NUM_BLOCKS * block_size;
    let cols = 2 * num_kv_heads * head_dim;
    let kv = random_activations(41, num_slots * cols);
    let start = kv.clone();
    let copied = COPIES.len() * KvLayer::bytes_per_block(dtype, block_size, num_kv_heads, head_dim);
    Case {
        op: "copy_blocks",
        name: format!("{block_size}x{num_kv_heads}x{head_dim} {dtype:?}"),
        work: Work { bytes: 2 * copied as u64, operations: 0 },
        tolerance: 0.0,
        cuda_tolerance: 0.0,
        output_len: num_slots * cols,
        run: Box::new(move |device, output| {
            let dtype = if let Device::Cuda(_) = device { cuda_dtype(dtype) } else { dtype };
            let mut cache =
                KvLayer::new(device, dtype, NUM_BLOCKS, block_size, num_kv_heads, head_dim)
                    .expect("a small cache");
            fill(device, &mut cache, &start);
            copy_blocks(device, &mut cache, &COPIES);
            read(&cache, output);
        }),
        reference: Box::new(move || {
            let blocks = kv.chunks(block_size * cols);
            let mut blocks: Vec<Vec<f32>> =
                blocks.map(|block| block.iter().map(|&x| rounded(dtype, x)).collect()).collect();
            reference::copy_blocks(&mut blocks, &COPIES);
            blocks.concat()
        }),
    }
}

/// Row i of `kv` (the keys of all heads, then the values) goes to slot i.
pub(crate) fn fill(device: &Device, cache: &mut KvLayer, kv: &[f32]) {
    let (num_kv_heads, head_dim) = (cache.num_kv_heads(), cache.head_dim());
    let cols = 2 * num_kv_heads * head_dim;
    let slots: Vec<u32> = (0..(kv.len() / cols) as u32).collect();
    let args = RopeWriteKv {
        head_dim,
        num_q_heads: 0,
        num_kv_heads,
        positions: (&slots).into(),
        slot_mapping: (&slots).into(),
        rope: None,
        norm: None,
    };
    let mut kv = kv.to_vec();
    in_place(device, Kind::Activations, &mut kv, (slots.len(), cols), |kv| {
        rope_write_kv(device, kv, cache, &args);
    });
}

pub(crate) fn read(cache: &KvLayer, output: &mut [f32]) {
    let (num_kv_heads, head_dim) = (cache.num_kv_heads(), cache.head_dim());
    for (slot, row) in output.chunks_mut(2 * num_kv_heads * head_dim).enumerate() {
        let (keys, values) = row.split_at_mut(num_kv_heads * head_dim);
        let heads = keys.chunks_mut(head_dim).zip(values.chunks_mut(head_dim));
        for (kv_head, (key, value)) in heads.enumerate() {
            let (stored_key, stored_value) = cache.read_slot(slot as u32, kv_head);
            key.copy_from_slice(&stored_key);
            value.copy_from_slice(&stored_value);
        }
    }
}
