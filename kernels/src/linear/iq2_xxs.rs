//! IQ2_XXS: 256 weights as f16 `d`, then for each 32 four entries of a codebook of 256 (eight numbers each) and 32 bits:
//! four times seven signs, and a scale s. `x = d · (2·s + 1) / 8 · number`.

use super::block::half_at;
use super::iq::{self, Grid, IQ2_TABLE, even_signs};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) use super::iq::ELEMENTS;
pub(super) const BYTES: usize = 66;
pub(super) const PACKING: Packing = Packing {
    codes: Codes::TableOfEight(&IQ2_TABLE),
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
    let groups = block[2..].as_chunks::<8>().0;
    for (group, (bytes, codes)) in groups.iter().zip(codes.chunks_exact_mut(32)).enumerate() {
        let bits = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        scales.bytes[group] = 2 * (bits >> 28) as u8 + 1;
        for (part, codes) in codes.chunks_exact_mut(8).enumerate() {
            let signs = even_signs(bits >> (7 * part));
            Grid::Iq2Xxs.eight(bytes[part].into(), signs, codes);
        }
    }
}
