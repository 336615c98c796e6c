//! Q4_1: 32 weights as f16 `d`, f16 `m`, 16 bytes of nibbles (low halves first). `x = d · q + m`.

use super::block::half_at;
use super::bytes::{Bytes, f16_at};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 32;
pub(super) const BYTES: usize = 20;
pub(super) const PACKING: Packing = Packing { codes: Codes::Four, scales: Scales::HalfAndMinimum };

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let (d, m) = (f16_at(simd, block, 0), f16_at(simd, block, 2));
    let bytes = Bytes::load(&block[4..]);
    bytes.bits(0, 15).scale_and_add(simd, d, m, out);
    bytes.bits(4, 15).scale_and_add(simd, d, m, &mut out[16..]);
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 0);
    scales.halves[1] = half_at(block, 2);
    let bytes = Bytes::load(&block[4..]);
    bytes.bits(0, 15).store(codes);
    bytes.bits(4, 15).store(&mut codes[16..]);
}
