//! F16: an IEEE half float.

use super::block::f16_to_f32;
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 1;
pub(super) const BYTES: usize = 2;

#[inline(always)]
pub(super) fn dequantize_block(_simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    out[0] = f16_to_f32(u16::from_le_bytes(*block));
}
