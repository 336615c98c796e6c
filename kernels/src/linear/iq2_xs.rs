//! IQ2_XS: 256 weights as f16 `d`, 32 times 16 bits (an entry of a codebook of 512, eight numbers; seven signs), and
//! 16 scales s of 4 bits. `x = d · (2·s + 1) / 8 · number`, groups of 16.

use super::block::half_at;
use super::iq::{self, Grid, IQ2_TABLE, even_signs, odd_scales};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) use super::iq::ELEMENTS;
pub(super) const BYTES: usize = 74;
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
    odd_scales(&block[66..], &mut scales.bytes);
    for (part, codes) in codes.chunks_exact_mut(8).enumerate() {
        let bits = half_at(block, 2 + 2 * part);
        Grid::Iq2Xs.eight((bits & 511).into(), even_signs((bits >> 9).into()), codes);
    }
}
