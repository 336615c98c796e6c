//! Q5_0: 32 weights as f16 `d`, 32 fifth bits, 16 bytes of nibbles (low halves first). `x = d · (q − 16)`.

use super::block::half_at;
use super::bytes::f16_at;
use super::packed::{BlockScales, Codes, Packing, Scales};
use super::q5_1::unpack;
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 32;
pub(super) const BYTES: usize = 22;
pub(super) const PACKING: Packing =
    Packing { codes: Codes::Five, scales: Scales::Half { blocks: 1 } };

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let d = f16_at(simd, block, 0);
    let [low, high] = unpack(&block[2..]);
    low.minus(16).scale(simd, d, out);
    high.minus(16).scale(simd, d, &mut out[16..]);
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 0);
    let [low, high] = unpack(&block[2..]);
    low.store(codes);
    high.store(&mut codes[16..]);
}
