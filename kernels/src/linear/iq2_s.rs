//! IQ2_S: 256 weights as f16 `d`, 32 entries of a codebook of 1024 (eight numbers; 8 low bits, then all signs, then the
//! 2 high bits of each), and 16 scales s of 4 bits. `x = d · (2·s + 1) / 8 · number`, groups of 16.

use super::block::half_at;
use super::iq::{self, Grid, IQ2_TABLE, odd_scales};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) use super::iq::ELEMENTS;
pub(super) const BYTES: usize = 82;
pub(super) const PACKING: Packing = Packing {
    codes: Codes::TableOfEight(&IQ2_TABLE),
    scales: Scales::Signed { groups: 16, shift: 3 },
};

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    iq::dequantize(simd, PACKING, |codes, scales| split(block, codes, scales), out);
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 0);
    odd_scales(&block[74..], &mut scales.bytes);
    for (part, codes) in codes.chunks_exact_mut(8).enumerate() {
        let high = block[66 + part / 4] >> (2 * (part % 4)) & 3;
        let entry = usize::from(block[2 + part]) | usize::from(high) << 8;
        Grid::Iq2S.eight(entry, block[34 + part], codes);
    }
}
