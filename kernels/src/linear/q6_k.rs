//! Q6_K: 256 weights as 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales, f16 `d`.
//! `x = d · scale · (q − 32)`, groups of 16. Each half of 128 weights has 64 bytes of nibbles (two runs of 32 in the low
//! halves, then two in the high halves) and 32 bytes of bit pairs (one run after the other).

use super::block::half_at;
use super::bytes::{Bytes, f16_at};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 256;
pub(super) const BYTES: usize = 210;
pub(super) const PACKING: Packing =
    Packing { codes: Codes::Six, scales: Scales::Signed { groups: 16, shift: 0 } };

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let d = f16_at(simd, block, 208);
    for (half, out) in out.chunks_exact_mut(128).enumerate() {
        // Constant shifts in a loop that is unrolled.
        for (run, out) in out.chunks_exact_mut(32).enumerate() {
            for (part, out) in out.chunks_exact_mut(16).enumerate() {
                let scale = block[192 + 8 * half + 2 * run + part].cast_signed();
                let nibbles = Bytes::load(&block[64 * half + 32 * (run % 2) + 16 * part..]);
                let pairs = Bytes::load(&block[128 + 32 * half + 16 * part..]);
                let q = nibbles.bits(4 * (run / 2), 15).with_upper(pairs.bits(2 * run, 3), 4);
                q.minus(32).scale(simd, d * f32::from(scale), out);
            }
        }
    }
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 208);
    scales.bytes.copy_from_slice(&block[192..208]);
    for (half, codes) in codes.chunks_exact_mut(128).enumerate() {
        for (run, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (part, codes) in codes.chunks_exact_mut(16).enumerate() {
                let nibbles = Bytes::load(&block[64 * half + 32 * (run % 2) + 16 * part..]);
                let pairs = Bytes::load(&block[128 + 32 * half + 16 * part..]);
                let low = nibbles.bits(4 * (run / 2), 15);
                low.with_upper(pairs.bits(2 * run, 3), 4).store(codes);
            }
        }
    }
}
