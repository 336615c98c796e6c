//! Shapes that test and time `copy_slots`.

use super::{copy_slots, reference};
use crate::cases::{Case, Work, random_activations};
use crate::copy_blocks::cases::{fill, read};
use crate::device::Device;
use crate::kv_layer::{KvLayer, cuda_dtype, rounded};
use crate::tensor::DType;

const NUM_BLOCKS: usize = 3;
/// A chain over a border of blocks, a slot onto itself, and one source for two.
const COPIES: [(u32, u32); 6] = [(9, 3), (10, 4), (4, 11), (6, 6), (1, 0), (1, 8)];

pub fn cases() -> Vec<Case> {
    vec![
        case(DType::F32, 4, 1, 16),
        case(DType::F16, 16, 3, 64),
        case(DType::BF16, 5, 2, 80),
        case(DType::F8E4M3, 16, 2, 32),
    ]
}

fn case(dtype: DType, block_size: usize, num_kv_heads: usize, head_dim: usize) -> Case {
    let num_slots = NUM_BLOCKS * block_size;
    let cols = 2 * num_kv_heads * head_dim;
    let kv = random_activations(43, num_slots * cols);
    let start = kv.clone();
    Case {
        op: "copy_slots",
        name: format!("{block_size}x{num_kv_heads}x{head_dim} {dtype:?}"),
        work: Work { bytes: (2 * COPIES.len() * cols * dtype.size()) as u64, operations: 0 },
        tolerance: 0.0,
        cuda_tolerance: 0.0,
        output_len: num_slots * cols,
        run: Box::new(move |device, output| {
            let dtype = if let Device::Cuda(_) = device { cuda_dtype(dtype) } else { dtype };
            let mut cache =
                KvLayer::new(device, dtype, NUM_BLOCKS, block_size, num_kv_heads, head_dim)
                    .expect("a small cache");
            fill(device, &mut cache, &start);
            copy_slots(device, &mut cache, &COPIES);
            read(&cache, output);
        }),
        reference: Box::new(move || {
            let slots = kv.chunks(cols);
            let mut slots: Vec<Vec<f32>> =
                slots.map(|slot| slot.iter().map(|&x| rounded(dtype, x)).collect()).collect();
            reference::copy_slots(&mut slots, &COPIES);
            slots.concat()
        }),
    }
}
