//! Shapes that test and time `index_keys`.

use super::{IndexKeysArgs, index_keys, reference};
use crate::cases::{BF16_TOLERANCE, Case, Input, Kind, NO_CUDA_KERNEL, Work, random_f32};
use crate::index_layer::IndexLayer;
use crate::kv_layer::rounded;
use crate::rope_write_kv::{RopeStyle, RopeTable, reference::rotate};
use crate::tensor::DType;

const BLOCK_SIZE: usize = 4;
const NUM_POSITIONS: usize = 200;
const EPS: f32 = 1e-6;

pub fn cases() -> Vec<Case> {
    use DType::{BF16, F16, F32};
    use RopeStyle::{Interleaved, Neox};
    vec![
        case(1, 16, 8, Neox, F32),
        case(7, 128, 64, Interleaved, F16),
        case(3, 10, 10, Neox, BF16),
        case(64, 128, 64, Neox, F32),
        case(13, 128, 64, Neox, BF16),
        case(5, 16, 8, Interleaved, BF16),
    ]
}

/// The third row has no slot.
fn case(rows: usize, head_dim: usize, rotary_dim: usize, style: RopeStyle, dtype: DType) -> Case {
    let x = random_f32(71, rows * head_dim);
    let [weight, bias] = [72, 73].map(|seed| random_f32(seed, head_dim));
    let frequencies: Vec<f32> = (0..rotary_dim / 2).map(|i| 0.5_f32.powi(i as i32)).collect();
    let table = RopeTable::new(&frequencies, 1.5, NUM_POSITIONS, style).expect("a small table");
    let positions: Vec<u32> = (0..rows).map(|row| (row * 23 % NUM_POSITIONS) as u32).collect();
    let num_blocks = rows.div_ceil(BLOCK_SIZE) + 1;
    let slot = |row: u32| if row == 2 { u32::MAX } else { row + 3 };
    let slots: Vec<u32> = (0..rows as u32).map(slot).collect();
    let mut input = Input::new(Kind::Numbers, x.clone(), rows, head_dim);
    let [mut weight_input, mut bias_input] =
        [&weight, &bias].map(|vector| Input::new(Kind::Numbers, vector.clone(), 1, head_dim));
    let (case_slots, case_positions) = (slots.clone(), positions.clone());
    Case {
        op: "index_keys",
        name: format!("{rows}x{head_dim} {style:?} {rotary_dim} {dtype:?}"),
        work: Work {
            bytes: (rows * head_dim * (4 + dtype.size())) as u64,
            operations: (10 * rows * head_dim) as u64,
        },
        // A number at the middle between two of the page's type may round either way.
        tolerance: match dtype {
            DType::F32 => 2e-6,
            DType::F16 => 1e-3,
            _ => 8e-3,
        },
        cuda_tolerance: if dtype == DType::BF16 { BF16_TOLERANCE } else { NO_CUDA_KERNEL },
        output_len: rows * head_dim,
        run: Box::new(move |device, output| {
            let layer = IndexLayer::new(device, dtype, num_blocks, BLOCK_SIZE, head_dim);
            let mut layer = layer.expect("a small cache");
            let table = table.copied_to(device).expect("a small table");
            let args = IndexKeysArgs {
                weight: weight_input.on(device),
                bias: bias_input.on(device),
                eps: EPS,
                positions: (&case_positions).into(),
                slot_mapping: (&case_slots).into(),
                rope: &table,
            };
            index_keys(device, &mut layer, input.view(device), &args);
            for (out, &slot) in output.chunks_mut(head_dim).zip(&case_slots) {
                match slot {
                    u32::MAX => out.fill(0.0),
                    _ => out.copy_from_slice(&layer.read_slot(slot)),
                }
            }
        }),
        reference: Box::new(move || {
            let rows = x.chunks(head_dim).zip(&positions).zip(&slots);
            let key = |((x, &position), &slot): ((&[f32], &u32), &u32)| {
                if slot == u32::MAX {
                    return vec![0.0; head_dim];
                }
                let normed = reference::layer_norm(x, &weight, &bias, EPS);
                rotate(&normed, position, &frequencies, 1.5, style)
            };
            rows.flat_map(key).map(|x| rounded(dtype, x as f32)).collect()
        }),
    }
}
