//! F32: the number itself, little endian.

use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 1;
pub(super) const BYTES: usize = 4;

#[inline(always)]
pub(super) fn dequantize_block(_simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    out[0] = f32::from_le_bytes(*block);
}
