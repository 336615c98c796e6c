//! IQ3_S: 256 weights as f16 `d`, 64 entries of a codebook of 512 (four numbers; 8 low bits, then the high bits, then all
//! signs), and 8 scales s of 4 bits. `x = d · (2·s + 1) · number`, groups of 32.

use super::block::half_at;
use super::iq::{self, Grid, odd_scales};
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) use super::iq::ELEMENTS;
pub(super) const BYTES: usize = 110;
pub(super) const PACKING: Packing =
    Packing { codes: Codes::Table(&TABLE), scales: Scales::Signed { groups: 8, shift: 0 } };

/// The numbers of the codebook, then negative.
const TABLE: [i8; 16] = [1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15];

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    iq::dequantize(simd, PACKING, |codes, scales| split(block, codes, scales), out);
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.halves[0] = half_at(block, 0);
    odd_scales(&block[106..], &mut scales.bytes[..8]);
    for (part, codes) in codes.chunks_exact_mut(4).enumerate() {
        let high = block[66 + part / 8] >> (part % 8) & 1;
        let entry = usize::from(block[2 + part]) | usize::from(high) << 8;
        Grid::Iq3S.four(entry, block[74 + part / 2] >> (4 * (part % 2)), codes);
    }
}
