//! TQ2_0: 256 weights as 64 bytes of 2-bit numbers and f16 `d`. `x = d · (q − 1)`. Each half of 128 weights has 32 bytes,
//! whose bit pairs hold one run of 32 weights after the other.

use super::block::half_at;
use super::bytes::{Bytes, f16_at};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 256;
pub(super) const BYTES: usize = 66;
pub(super) const PACKING: Packing =
    Packing { codes: Codes::Two, scales: Scales::Half { blocks: 8 } };

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let d = f16_at(simd, block, 64);
    each_run(block, |index, bytes| bytes.minus(1).scale(simd, d, &mut out[16 * index..]));
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 64);
    each_run(block, |index, bytes| bytes.store(&mut codes[16 * index..]));
}

/// The numbers, 16 by 16.
#[inline(always)]
fn each_run(block: &[u8; BYTES], mut take: impl FnMut(usize, Bytes)) {
    for index in 0..ELEMENTS / 16 {
        let (half, run, part) = (index / 8, index / 2 % 4, index % 2);
        take(index, Bytes::load(&block[32 * half + 16 * part..]).bits(2 * run, 3));
    }
}
