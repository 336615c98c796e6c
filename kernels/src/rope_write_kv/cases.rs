//! Shapes that test and time `rope_write_kv`.

use super::{HeadNorm, RopeStyle, RopeTable, RopeWriteKv, reference, rope_queries, rope_write_kv};
use crate::cases::{
    BF16_TOLERANCE, Case, Input, Kind, Work, in_place, random_activations, random_f32,
};
use crate::device::Device;
use crate::kv_layer::{KvLayer, cuda_dtype, rounded};
use crate::tensor::DType;

const EPS: f32 = 1e-6;
const ATTENTION_FACTOR: f32 = 1.25;
const BLOCK_SIZE: usize = 8;
const NUM_POSITIONS: usize = 1000;

#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    num_q_heads: usize,
    /// 0: queries alone.
    num_kv_heads: usize,
    head_dim: usize,
    /// 0: no rotation.
    rotary_dim: usize,
    style: RopeStyle,
    /// Of q and k; of v too where there is no rotation.
    norm: bool,
    dtype: DType,
}

impl Shape {
    fn name(&self) -> String {
        let &Self { rows, num_q_heads, num_kv_heads, head_dim, rotary_dim, .. } = self;
        let Self { style, norm, dtype, .. } = self;
        format!(
            "{rows}x({num_q_heads}+{num_kv_heads})x{head_dim} {style:?} {rotary_dim} norm={norm} {dtype:?}"
        )
    }
}

pub fn cases() -> Vec<Case> {
    use DType::{BF16, F8E4M3, F16, F32};
    use RopeStyle::{Interleaved, Neox};
    [
        (1, (1, 1, 16), 16, Neox, false, F32),
        (3, (3, 1, 64), 64, Neox, true, F16),
        (7, (4, 2, 80), 32, Neox, false, BF16),
        (5, (7, 1, 96), 96, Interleaved, true, F32),
        (9, (2, 2, 128), 0, Neox, true, F16),
        (2, (8, 1, 256), 64, Interleaved, false, BF16),
        (1, (2, 1, 10), 6, Neox, true, F16),
        (6, (3, 0, 32), 32, Neox, true, F32),
        (3, (2, 0, 128), 64, Interleaved, false, F32),
        (512, (9, 3, 64), 64, Neox, false, BF16),
        (7, (4, 2, 64), 64, Neox, true, F8E4M3),
        (9, (3, 1, 80), 32, Interleaved, false, F8E4M3),
        (5, (2, 2, 128), 0, Neox, true, F8E4M3),
    ]
    .map(|(rows, (num_q_heads, num_kv_heads, head_dim), rotary_dim, style, norm, dtype)| Shape {
        rows,
        num_q_heads,
        num_kv_heads,
        head_dim,
        rotary_dim,
        style,
        norm,
        dtype,
    })
    .into_iter()
    .map(case)
    .collect()
}

/// A number at the middle between two of the page's type may round either way.
fn tolerance(pages: DType) -> f32 {
    match pages {
        DType::F32 => 2e-6,
        DType::F16 => 1e-3,
        DType::F8E4M3 => 0.13,
        _ => 8e-3,
    }
}

fn case(shape: Shape) -> Case {
    let Shape { rows, num_q_heads, num_kv_heads, head_dim, rotary_dim, style, norm, dtype } = shape;
    let cols = (num_q_heads + 2 * num_kv_heads) * head_dim;
    let input = random_activations(11, rows * cols);
    let start = input.clone();
    let frequencies: Vec<f32> =
        (0..rotary_dim / 2).map(|i| 0.1_f32.powf(8.0 * i as f32 / rotary_dim as f32)).collect();
    let table = RopeTable::new(&frequencies, ATTENTION_FACTOR, NUM_POSITIONS, style)
        .expect("a small table");
    let mut weights =
        [12, 13, 14].map(|seed| Input::new(Kind::Numbers, random_f32(seed, head_dim), 1, head_dim));
    let positions: Vec<u32> = (0..rows).map(|r| (r * 37 % NUM_POSITIONS) as u32).collect();
    let slots = slot_mapping(rows);
    let pages = move |device: &Device, dtype| {
        KvLayer::new(device, dtype, slots.1, BLOCK_SIZE, num_kv_heads.max(1), head_dim)
            .expect("a small cache")
    };
    let mut cache = pages(&Device::cpu(1), dtype);
    let case_positions = positions.clone();
    Case {
        op: "rope_write_kv",
        name: shape.name(),
        work: Work {
            bytes: (8 * rows * cols + 2 * rows * num_kv_heads * head_dim * dtype.size()) as u64,
            operations: (6 * rows * (num_q_heads + num_kv_heads) * head_dim) as u64,
        },
        tolerance: tolerance(dtype),
        // As above: one such number in hundreds.
        cuda_tolerance: if dtype == DType::F8E4M3 { 0.02 } else { BF16_TOLERANCE },
        output_len: rows * cols,
        run: Box::new(move |device, output| {
            output.copy_from_slice(&start);
            let [q, k, v] = weights.each_mut().map(|weight| weight.on(device));
            let on_device;
            let mut cuda_cache;
            let (table, cache) = match device {
                Device::Cuda(_) => {
                    on_device = table.copied_to(device).expect("a small table");
                    cuda_cache = pages(device, cuda_dtype(dtype));
                    (&on_device, &mut cuda_cache)
                }
                _ => (&table, &mut cache),
            };
            let args = RopeWriteKv {
                head_dim,
                num_q_heads,
                num_kv_heads,
                positions: (&case_positions).into(),
                slot_mapping: (&slots.0).into(),
                rope: (rotary_dim > 0).then_some(table),
                norm: norm.then_some(HeadNorm {
                    q,
                    k,
                    v: (rotary_dim == 0).then_some(v),
                    eps: EPS,
                }),
            };
            in_place(device, Kind::Activations, output, (rows, cols), |qkv| match num_kv_heads {
                0 => rope_queries(device, qkv, &args),
                _ => rope_write_kv(device, qkv, cache, &args),
            });
            read_back(output, cache, &args);
        }),
        reference: Box::new(move || {
            let rows = input.chunks(cols).zip(&positions).enumerate();
            rows.flat_map(|(row, (x, &position))| {
                reference_row(shape, x, position, &frequencies, is_skipped(row))
            })
            .collect()
        }),
    }
}

/// Row 4 is skipped; the others are scattered over the blocks. Also the number of blocks.
fn slot_mapping(rows: usize) -> (Vec<u32>, usize) {
    let num_blocks = rows.div_ceil(BLOCK_SIZE) + 1;
    let num_slots = num_blocks * BLOCK_SIZE;
    let step = if num_slots.is_multiple_of(17) { 1 } else { 17 };
    let slot = |row| if is_skipped(row) { u32::MAX } else { (row * step % num_slots) as u32 };
    ((0..rows).map(slot).collect(), num_blocks)
}

fn is_skipped(row: usize) -> bool {
    row == 4
}

/// Puts what the cache holds in the place of k and v.
fn read_back(output: &mut [f32], cache: &KvLayer, args: &RopeWriteKv) {
    let cols = output.len() / args.positions.len();
    let (q_cols, kv_cols) = (args.num_q_heads * args.head_dim, args.num_kv_heads * args.head_dim);
    for (row, &slot) in output.chunks_mut(cols).zip(args.slot_mapping.host()) {
        if slot == u32::MAX {
            row[q_cols..].fill(0.0);
            continue;
        }
        let (keys, values) = row[q_cols..].split_at_mut(kv_cols);
        let heads = keys.chunks_mut(args.head_dim).zip(values.chunks_mut(args.head_dim));
        for (kv_head, (key, value)) in heads.enumerate() {
            let (stored_key, stored_value) = cache.read_slot(slot, kv_head);
            key.copy_from_slice(&stored_key);
            value.copy_from_slice(&stored_value);
        }
    }
}

fn reference_row(
    shape: Shape,
    x: &[f32],
    position: u32,
    frequencies: &[f32],
    skipped: bool,
) -> Vec<f32> {
    let [q_weight, k_weight, v_weight] = [12, 13, 14].map(|seed| random_f32(seed, shape.head_dim));
    let heads = x.chunks(shape.head_dim).enumerate();
    heads
        .flat_map(|(index, head)| {
            let is_q = index < shape.num_q_heads;
            let is_v = index >= shape.num_q_heads + shape.num_kv_heads;
            let mut head: Vec<f64> = head.iter().map(|&x| f64::from(x)).collect();
            let weight = match (is_q, is_v) {
                (true, _) => &q_weight,
                (false, true) => &v_weight,
                (false, false) => &k_weight,
            };
            if shape.norm && (!is_v || shape.rotary_dim == 0) {
                head = reference::norm(&head, weight, EPS);
            }
            if !is_v {
                let factor = ATTENTION_FACTOR;
                head = reference::rotate(&head, position, frequencies, factor, shape.style);
            }
            let stored = move |x: f64| match (is_q, skipped) {
                (true, _) => x as f32,
                (false, true) => 0.0,
                (false, false) => rounded(shape.dtype, x as f32),
            };
            head.into_iter().map(stored).collect::<Vec<_>>()
        })
        .collect()
}
