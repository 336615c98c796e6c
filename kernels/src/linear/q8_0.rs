//! Q8_0: 32 weights as f16 `d`, 32 signed bytes. `x = d · q`.

use super::block::half_at;
use super::bytes::{Bytes, f16_at};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 32;
pub(super) const BYTES: usize = 34;
pub(super) const PACKING: Packing =
    Packing { codes: Codes::Eight, scales: Scales::Half { blocks: 1 } };

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let d = f16_at(simd, block, 0);
    Bytes::load(&block[2..]).scale(simd, d, out);
    Bytes::load(&block[18..]).scale(simd, d, &mut out[16..]);
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 0);
    Bytes::load(&block[2..]).minus(128).store(codes);
    Bytes::load(&block[18..]).minus(128).store(&mut codes[16..]);
}
