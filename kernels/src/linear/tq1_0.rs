//! TQ1_0: 256 weights −1, 0 or 1 as digits of base 3, five to a byte (the last 16 four), and f16 `d`. `x = d · (digit − 1)`.
//! A byte is the fraction of the number of its digits, rounded up: times 3, the highest digit leaves at the top.

use super::block::half_at;
use super::bytes::{Bytes, f16_at};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 256;
pub(super) const BYTES: usize = 54;
pub(super) const PACKING: Packing =
    Packing { codes: Codes::Two, scales: Scales::Half { blocks: 8 } };

/// First byte and number of the bytes that are read together, and their digits.
const RUNS: [(usize, usize, u32); 3] = [(0, 32, 5), (32, 16, 5), (48, 4, 4)];

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let mut codes = [0; ELEMENTS];
    split(block, &mut codes, &mut BlockScales::default());
    let d = f16_at(simd, block, 52);
    for (codes, out) in codes.chunks_exact(16).zip(out.chunks_exact_mut(16)) {
        Bytes::load(codes).minus(1).scale(simd, d, out);
    }
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 52);
    let mut codes = codes.iter_mut();
    for (first, len, digits) in RUNS {
        for digit in 0..digits {
            for (&byte, code) in block[first..first + len].iter().zip(&mut codes) {
                let fraction = byte.wrapping_mul(3_u8.pow(digit));
                *code = ((u16::from(fraction) * 3) >> 8) as u8;
            }
        }
    }
}
