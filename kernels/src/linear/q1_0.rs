//! Q1_0: 128 weights as f16 `d` and a bit each. `x = ±d`, plus where the bit is set.

use super::block::half_at;
use super::bytes::{Bytes, f16_at};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 128;
pub(super) const BYTES: usize = 18;
pub(super) const PACKING: Packing =
    Packing { codes: Codes::Two, scales: Scales::Half { blocks: 4 } };

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let d = f16_at(simd, block, 0);
    for (index, out) in out.chunks_exact_mut(16).enumerate() {
        codes_of(block, index).minus(1).scale(simd, d, out);
    }
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 0);
    for (index, codes) in codes.chunks_exact_mut(16).enumerate() {
        codes_of(block, index).store(codes);
    }
}

/// 0 or 2 for 16 weights.
#[inline(always)]
fn codes_of(block: &[u8; BYTES], index: usize) -> Bytes {
    let zero = Bytes::from_bits(0);
    zero.with_upper(Bytes::from_bits(half_at(block, 2 + 2 * index)), 1)
}
