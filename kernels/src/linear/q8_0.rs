//! Q8_0: 32 weights as f16 `d`, 32 signed bytes. `x = d · q`.

use super::bytes::{Bytes, f16_at};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 32;
pub(super) const BYTES: usize = 34;

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let d = f16_at(simd, block, 0);
    Bytes::load(&block[2..]).scale(simd, d, out);
    Bytes::load(&block[18..]).scale(simd, d, &mut out[16..]);
}
