//! Q4_K: 256 weights as f16 `d`, f16 `dmin`, 12 bytes (8 scales and 8 minima of 6 bits), 128 bytes of nibbles.
//! `x = d · scale · q − dmin · minimum`, 8 groups of 32; 32 bytes hold one group in their low, the next in their high
//! halves.

use super::block::{half_at, scale_and_min};
use super::bytes::{Bytes, f16_at};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 256;
pub(super) const BYTES: usize = 144;
pub(super) const PACKING: Packing =
    Packing { codes: Codes::Four, scales: Scales::UnsignedAndMinimum };

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let (d, dmin) = (f16_at(simd, block, 0), f16_at(simd, block, 2));
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_min(&block[4..16], group);
        let (scale, offset) = (d * f32::from(scale), -(dmin * f32::from(minimum)));
        for (part, out) in out.chunks_exact_mut(16).enumerate() {
            let bytes = Bytes::load(&block[16 + 32 * (group / 2) + 16 * part..]);
            bytes.bits(4 * (group % 2), 15).scale_and_add(simd, scale, offset, out);
        }
    }
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 0);
    scales.halves[1] = half_at(block, 2);
    for (group, codes) in codes.chunks_exact_mut(32).enumerate() {
        (scales.bytes[group], scales.bytes[8 + group]) = scale_and_min(&block[4..16], group);
        for (part, codes) in codes.chunks_exact_mut(16).enumerate() {
            let bytes = Bytes::load(&block[16 + 32 * (group / 2) + 16 * part..]);
            bytes.bits(4 * (group % 2), 15).store(codes);
        }
    }
}
