//! BF16: the upper half of a float32.

use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 1;
pub(super) const BYTES: usize = 2;

#[inline(always)]
pub(super) fn dequantize_block(_simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    out[0] = f32::from_bits(u32::from(u16::from_le_bytes(*block)) << 16);
}
