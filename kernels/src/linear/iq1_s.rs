//! IQ1_S: 256 weights as f16 `d`, 32 entries of a codebook of 2048 (eight numbers −1, 0 or 1; 8 low bits), and for each 32
//! weights 16 bits: four times 3 high bits, a scale s, a sign. `x = d · (2·s + 1) · (number ± 1/8)`.

use super::block::half_at;
use super::iq::{self, Grid, IQ1_TABLE};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) use super::iq::ELEMENTS;
pub(super) const BYTES: usize = 50;
pub(super) const PACKING: Packing = Packing {
    codes: Codes::TableOfEight(&IQ1_TABLE),
    scales: Scales::Signed { groups: 8, shift: 3 },
};

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    iq::dequantize(simd, PACKING, |codes, scales| split(block, codes, scales), out);
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 0);
    for (group, codes) in codes.chunks_exact_mut(32).enumerate() {
        let bits = half_at(block, 34 + 2 * group);
        scales.bytes[group] = 2 * (bits >> 12 & 7) as u8 + 1;
        let less = if bits >> 15 == 1 { 0xFF } else { 0 };
        for (part, codes) in codes.chunks_exact_mut(8).enumerate() {
            let high = usize::from(bits >> (3 * part) & 7);
            let entry = usize::from(block[2 + 4 * group + part]) | high << 8;
            Grid::Iq1.eight(entry, less, codes);
        }
    }
}
