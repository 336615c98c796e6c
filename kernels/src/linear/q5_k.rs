//! Q5_K: 256 weights as f16 `d`, f16 `dmin`, 12 bytes (8 scales and 8 minima of 6 bits), 32 bytes of fifth bits (bit g
//! belongs to group g), 128 bytes of nibbles in the order of Q4_K. `x = d · scale · q − dmin · minimum`.

use super::block::scale_and_min;
use super::bytes::{Bytes, f16_at};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 256;
pub(super) const BYTES: usize = 176;

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let (d, dmin) = (f16_at(simd, block, 0), f16_at(simd, block, 2));
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_min(&block[4..16], group);
        let (scale, offset) = (d * scale, -(dmin * minimum));
        for (part, out) in out.chunks_exact_mut(16).enumerate() {
            let fifth = Bytes::load(&block[16 + 16 * part..]).bits(group, 1);
            let bytes = Bytes::load(&block[48 + 32 * (group / 2) + 16 * part..]);
            let q = bytes.bits(4 * (group % 2), 15).with_upper(fifth, 4);
            q.scale_and_add(simd, scale, offset, out);
        }
    }
}
