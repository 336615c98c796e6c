//! IQ1_M: 256 weights as 32 entries of the codebook of IQ1_S (8 low bits), for each a nibble (3 high bits, a sign), and four
//! times 16 bits: four scales s of 3 bits, and a quarter of f16 `d`. `x = d · (2·s + 1) · (number ± 1/8)`, scales of 16.

use super::block::half_at;
use super::iq::{self, Grid, IQ1_TABLE};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) use super::iq::ELEMENTS;
pub(super) const BYTES: usize = 56;
pub(super) const PACKING: Packing = Packing {
    codes: Codes::TableOfEight(&IQ1_TABLE),
    scales: Scales::Signed { groups: 16, shift: 3 },
};

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    iq::dequantize(simd, PACKING, |codes, scales| split(block, codes, scales), out);
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = 0;
    for quarter in 0..4 {
        let bits = half_at(block, 48 + 2 * quarter);
        scales.halves[0] |= bits >> 12 << (4 * quarter);
        for part in 0..4 {
            scales.bytes[4 * quarter + part] = 2 * (bits >> (3 * part) & 7) as u8 + 1;
        }
    }
    for (part, codes) in codes.chunks_exact_mut(8).enumerate() {
        let nibble = block[32 + part / 2] >> (4 * (part % 2)) & 15;
        let less = if nibble >> 3 == 1 { 0xFF } else { 0 };
        let entry = usize::from(block[part]) | usize::from(nibble & 7) << 8;
        Grid::Iq1.eight(entry, less, codes);
    }
}
