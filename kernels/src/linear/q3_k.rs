//! Q3_K: 256 weights as 32 bytes of third bits, 64 bytes of 2-bit numbers, 12 bytes (16 scales of 6 bits), f16 `d`.
//! `x = d · (scale − 32) · (q − (third bit ? 0 : 4))`, 16 groups of 16, 2-bit numbers in the order of Q2_K.

use super::block::half_at;
use super::bytes::{Bytes, f16_at};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 256;
pub(super) const BYTES: usize = 110;
pub(super) const PACKING: Packing =
    Packing { codes: Codes::Three, scales: Scales::Signed { groups: 16, shift: 0 } };

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let d = f16_at(simd, block, 108);
    for (half, out) in out.chunks_exact_mut(128).enumerate() {
        // Constant shifts in a loop that is unrolled.
        for (run, out) in out.chunks_exact_mut(32).enumerate() {
            for (part, out) in out.chunks_exact_mut(16).enumerate() {
                let scale = scale(&block[96..108], 8 * half + 2 * run + part) - 32;
                let third = Bytes::load(&block[16 * part..]).bits(4 * half + run, 1);
                let low = Bytes::load(&block[32 + 32 * half + 16 * part..]).bits(2 * run, 3);
                low.with_upper(third, 2).minus(4).scale(simd, d * f32::from(scale), out);
            }
        }
    }
}

/// The 6-bit scale of group `group` (0..16): four low bits in the first 8 bytes, two high bits in the last 4.
#[inline(always)]
fn scale(packed: &[u8], group: usize) -> i8 {
    let low = packed[group % 8] >> (4 * (group / 8)) & 15;
    let high = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
    (low | high << 4).cast_signed()
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 108);
    for (group, byte) in scales.bytes.iter_mut().enumerate() {
        *byte = (scale(&block[96..108], group) - 32).cast_unsigned();
    }
    for (half, codes) in codes.chunks_exact_mut(128).enumerate() {
        for (run, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (part, codes) in codes.chunks_exact_mut(16).enumerate() {
                let third = Bytes::load(&block[16 * part..]).bits(4 * half + run, 1);
                let low = Bytes::load(&block[32 + 32 * half + 16 * part..]).bits(2 * run, 3);
                low.with_upper(third, 2).store(codes);
            }
        }
    }
}
