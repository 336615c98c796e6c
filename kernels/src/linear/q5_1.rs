//! Q5_1: 32 weights as f16 `d`, f16 `m`, 32 fifth bits, 16 bytes of nibbles (low halves first). `x = d · q + m`.

use super::block::half_at;
use super::bytes::{Bytes, f16_at};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 32;
pub(super) const BYTES: usize = 24;
pub(super) const PACKING: Packing = Packing { codes: Codes::Five, scales: Scales::HalfAndMinimum };

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let (d, m) = (f16_at(simd, block, 0), f16_at(simd, block, 2));
    let [low, high] = unpack(&block[4..]);
    low.scale_and_add(simd, d, m, out);
    high.scale_and_add(simd, d, m, &mut out[16..]);
}

/// `packed`: 32 fifth bits, then 16 bytes of nibbles.
#[inline(always)]
pub(super) fn unpack(packed: &[u8]) -> [Bytes; 2] {
    let fifth = |at| Bytes::from_bits(u16::from_le_bytes([packed[at], packed[at + 1]]));
    let bytes = Bytes::load(&packed[4..]);
    [bytes.bits(0, 15).with_upper(fifth(0), 4), bytes.bits(4, 15).with_upper(fifth(2), 4)]
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 0);
    scales.halves[1] = half_at(block, 2);
    let [low, high] = unpack(&block[4..]);
    low.store(codes);
    high.store(&mut codes[16..]);
}
