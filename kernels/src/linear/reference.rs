//! The plain loops: the oracles of `linear`.

use super::format::WeightFormat;
use super::packed::{BLOCK, BlockScales, Codes, Scales};
use super::{ActivationPrecision, block::f16_to_f32, nvfp4::half_micro_float};

/// One row. `weight`: `[out_features, in_features]` float32 row after row. The sum runs in f64, so that only rounding
/// separates the fast path from it.
pub fn linear_row(x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let dot =
        |w: &[f32]| -> f64 { w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum() };
    weight
        .chunks_exact(x.len())
        .enumerate()
        .map(|(o, w)| (dot(w) + bias.map_or(0.0, |bias| f64::from(bias[o]))) as f32)
        .collect()
}

/// One row by the arithmetic of packed weights, without their layout: the fast path gives the same bits. `weight`: GGUF
/// rows of a quantized format.
pub fn packed_linear_row(
    x: &[f32],
    format: WeightFormat,
    weight: &[u8],
    precision: ActivationPrecision,
) -> Vec<f32> {
    let packing = format.packing().expect("a quantized format");
    let largest = match precision {
        ActivationPrecision::Int8 => 127.0,
        ActivationPrecision::Int16 => 32512.0,
        ActivationPrecision::Bfloat16 => unreachable!("`halves_row`"),
    };
    let x: Vec<(f32, Vec<i32>)> = x.chunks(BLOCK).map(|block| quantized(block, largest)).collect();
    let row_bytes = format.row_bytes(x.len() * BLOCK).expect("whole blocks");
    let group_size = BLOCK / packing.scales.groups_per_block();
    let row = |row: &[u8]| {
        let mut sum = 0.0_f32;
        for (index, block) in row.chunks(format.block_bytes()).enumerate() {
            let mut codes = vec![0; format.block_elements()];
            let fields = format.split(block, &mut codes);
            for (group, codes) in codes.chunks(group_size).enumerate() {
                let k = index * format.block_elements() + group * group_size;
                let (scale_x, x) = &x[k / BLOCK];
                let x = &x[k % BLOCK..][..group_size];
                let (scale, minimum) = scale_and_minimum(packing.scales, &fields, group);
                if let Some(minimum) = minimum {
                    sum = minimum.mul_add(*scale_x * x.iter().sum::<i32>() as f32, sum);
                }
                let value = |code: u8| match packing.codes {
                    _ if minimum.is_some() => i32::from(code),
                    Codes::Table(table) | Codes::TableOfEight(table) => {
                        i32::from(table[usize::from(code)])
                    }
                    codes => i32::from(code) - codes.offset(),
                };
                let dot: i32 = codes.iter().zip(x).map(|(&code, x)| value(code) * x).sum();
                sum = (dot as f32).mul_add(scale * *scale_x, sum);
            }
        }
        sum
    };
    weight.chunks(row_bytes).map(row).collect()
}

/// One row by the arithmetic of halves in tiles: the fast path gives the same bits while no number is subnormal.
/// `weight`: `[out_features, in_features]` of BF16.
pub fn halves_row(x: &[f32], weight: &[half::bf16]) -> Vec<f32> {
    let x: Vec<f32> = x.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
    let dot = |row: &[half::bf16]| {
        row.chunks(2).zip(x.chunks(2)).fold(0.0_f32, |sum, (weights, x)| {
            weights
                .iter()
                .zip(x)
                .rev()
                .fold(sum, |sum, (weight, x)| weight.to_f32().mul_add(*x, sum))
        })
    };
    weight.chunks_exact(x.len()).map(dot).collect()
}

fn quantized(x: &[f32], steps: f32) -> (f32, Vec<i32>) {
    let largest = x.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
    let integers = x.iter().map(|x| (x * (steps / largest)).round_ties_even() as i32);
    if largest == 0.0 { (0.0, vec![0; x.len()]) } else { (largest / steps, integers.collect()) }
}

/// Of one group of a block.
fn scale_and_minimum(scales: Scales, fields: &BlockScales, group: usize) -> (f32, Option<f32>) {
    let [d, m] = fields.halves.map(f16_to_f32);
    let byte = fields.bytes[group % 16];
    match scales {
        Scales::Half { .. } => (d, None),
        Scales::HalfAndMinimum => (d, Some(m)),
        Scales::Signed { shift, .. } => {
            (d * f32::from(byte.cast_signed()) * 0.5_f32.powi(shift.into()), None)
        }
        Scales::UnsignedAndMinimum => {
            (d * f32::from(byte), Some(-(m * f32::from(fields.bytes[8 + group]))))
        }
        Scales::NibblesAndMinimum => (d * f32::from(byte & 15), Some(-(m * f32::from(byte >> 4)))),
        Scales::MicroFloats => (half_micro_float(byte), None),
        Scales::Groups { .. } | Scales::None => unreachable!("no quantized format of GGUF"),
        Scales::Exponent => (2.0_f32.powi(i32::from(byte) - 128), None),
    }
}
