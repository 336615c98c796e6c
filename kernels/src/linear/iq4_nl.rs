//! IQ4_NL: 32 weights as f16 `d`, 16 bytes of nibbles (low halves first) that index a table. `x = d · TABLE[q]`.

use super::block::half_at;
use super::bytes::{Bytes, f16_at};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 32;
pub(super) const BYTES: usize = 18;
pub(super) const PACKING: Packing =
    Packing { codes: Codes::Table(&TABLE), scales: Scales::Half { blocks: 1 } };

/// Closer together near zero, where most weights are.
pub(super) const TABLE: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let d = f16_at(simd, block, 0);
    let bytes = Bytes::load(&block[2..]);
    bytes.bits(0, 15).look_up(simd, &TABLE).scale(simd, d, out);
    bytes.bits(4, 15).look_up(simd, &TABLE).scale(simd, d, &mut out[16..]);
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 0);
    let bytes = Bytes::load(&block[2..]);
    bytes.bits(0, 15).store(codes);
    bytes.bits(4, 15).store(&mut codes[16..]);
}
