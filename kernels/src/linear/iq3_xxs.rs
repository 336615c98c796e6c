//! IQ3_XXS: 256 weights as f16 `d`, 64 entries of a codebook of 256 (four numbers each), and for each 32 weights 32 bits:
//! four times seven signs, and a scale s. `x = d · (2·s + 1) / 4 · number`.

use super::block::half_at;
use super::iq::{self, Grid, even_signs};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) use super::iq::ELEMENTS;
pub(super) const BYTES: usize = 98;
pub(super) const PACKING: Packing =
    Packing { codes: Codes::Table(&TABLE), scales: Scales::Signed { groups: 8, shift: 2 } };

/// The numbers of the codebook, then negative.
const TABLE: [i8; 16] = [4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62];

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    iq::dequantize(simd, PACKING, |codes, scales| split(block, codes, scales), out);
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 0);
    let (entries, bits) = block[2..].split_at(64);
    for (group, codes) in codes.chunks_exact_mut(32).enumerate() {
        let bits =
            u32::from(half_at(bits, 4 * group)) | u32::from(half_at(bits, 4 * group + 2)) << 16;
        scales.bytes[group] = 2 * (bits >> 28) as u8 + 1;
        for (part, codes) in codes.chunks_exact_mut(4).enumerate() {
            let signs = even_signs(bits >> (7 * (part / 2))) >> (4 * (part % 2));
            Grid::Iq3Xxs.four(entries[8 * group + part].into(), signs, codes);
        }
    }
}
