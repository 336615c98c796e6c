//! IQ4_XS: 256 weights as f16 `d`, 2 bytes (upper 2 bits of 8 scales), 4 bytes (their lower 4 bits), 128 bytes of nibbles.
//! `x = d · (scale − 32) · TABLE[q]` with the table of IQ4_NL; 8 groups of 32, low halves first in each.

use super::block::half_at;
use super::bytes::{Bytes, f16_at};
use super::iq4_nl::TABLE;
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 256;
pub(super) const BYTES: usize = 136;
pub(super) const PACKING: Packing =
    Packing { codes: Codes::Table(&TABLE), scales: Scales::Signed { groups: 8, shift: 0 } };

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let d = f16_at(simd, block, 0);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let scale = d * f32::from(scale(block, group));
        let bytes = Bytes::load(&block[8 + 16 * group..]);
        bytes.bits(0, 15).look_up(simd, &TABLE).scale(simd, scale, out);
        bytes.bits(4, 15).look_up(simd, &TABLE).scale(simd, scale, &mut out[16..]);
    }
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 0);
    for (group, codes) in codes.chunks_exact_mut(32).enumerate() {
        scales.bytes[group] = scale(block, group).cast_unsigned();
        let bytes = Bytes::load(&block[8 + 16 * group..]);
        bytes.bits(0, 15).store(codes);
        bytes.bits(4, 15).store(&mut codes[16..]);
    }
}

/// The scale of group `group` (0..8), in -32..32.
#[inline(always)]
fn scale(block: &[u8; BYTES], group: usize) -> i8 {
    let upper = u16::from_le_bytes([block[2], block[3]]);
    let low = block[4 + group / 2] >> (4 * (group % 2)) & 15;
    let high = (upper >> (2 * group) & 3) as u8;
    (low | high << 4).cast_signed() - 32
}
