//! Q2_0: 64 weights as f16 `d` and 2-bit numbers, four to a byte. `x = d · (q − 1)`.

use super::block::half_at;
use super::bytes::{Bytes, f16_at};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 64;
pub(super) const BYTES: usize = 18;
pub(super) const PACKING: Packing =
    Packing { codes: Codes::Two, scales: Scales::Half { blocks: 2 } };

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let (mut codes, d) = ([0; ELEMENTS], f16_at(simd, block, 0));
    split(block, &mut codes, &mut BlockScales::default());
    for (codes, out) in codes.chunks_exact(16).zip(out.chunks_exact_mut(16)) {
        Bytes::load(codes).minus(1).scale(simd, d, out);
    }
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 0);
    for (index, code) in codes.iter_mut().enumerate() {
        *code = block[2 + index / 4] >> (2 * (index % 4)) & 3;
    }
}
