//! Q2_K: 256 weights as 16 bytes (scale, minimum: 4 bits each), 64 bytes of 2-bit numbers, f16 `d`, f16 `dmin`.
//! `x = d · scale · q − dmin · minimum`, 16 groups of 16. Each half of 128 weights has 32 bytes, whose bit pairs hold
//! one run of 32 weights after the other.

use super::block::half_at;
use super::bytes::{Bytes, f16_at};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 256;
pub(super) const BYTES: usize = 84;
pub(super) const PACKING: Packing =
    Packing { codes: Codes::Two, scales: Scales::NibblesAndMinimum };

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let (d, dmin) = (f16_at(simd, block, 80), f16_at(simd, block, 82));
    for (half, out) in out.chunks_exact_mut(128).enumerate() {
        // Constant shifts in a loop that is unrolled.
        for (run, out) in out.chunks_exact_mut(32).enumerate() {
            for (part, out) in out.chunks_exact_mut(16).enumerate() {
                let packed = block[8 * half + 2 * run + part];
                let (scale, minimum) = (f32::from(packed & 15), f32::from(packed >> 4));
                let bytes = Bytes::load(&block[16 + 32 * half + 16 * part..]);
                bytes.bits(2 * run, 3).scale_and_add(simd, d * scale, -(dmin * minimum), out);
            }
        }
    }
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 80);
    scales.halves[1] = half_at(block, 82);
    scales.bytes.copy_from_slice(&block[..16]);
    for (half, codes) in codes.chunks_exact_mut(128).enumerate() {
        for (run, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (part, codes) in codes.chunks_exact_mut(16).enumerate() {
                let bytes = Bytes::load(&block[16 + 32 * half + 16 * part..]);
                bytes.bits(2 * run, 3).store(codes);
            }
        }
    }
}
