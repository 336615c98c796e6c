//! NVFP4: 64 weights as four scales (E4M3 without its sign, one for 16 weights) and 32 bytes of E2M1 numbers, of each scale
//! eight bytes with the low halves first. `x = scale · value`; the table holds doubled values, so the scale is halved.
//! A factor for the whole tensor lies beside it.

use super::bytes::Bytes;
use super::mxfp4::DOUBLED;
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 64;
pub(super) const BYTES: usize = 36;
pub(super) const PACKING: Packing =
    Packing { codes: Codes::Table(&DOUBLED), scales: Scales::MicroFloats };

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let (mut codes, mut scales) = ([0; ELEMENTS], BlockScales::default());
    split(block, &mut codes, &mut scales);
    let groups = codes.chunks_exact(16).zip(out.chunks_exact_mut(16));
    for ((codes, out), scale) in groups.zip(scales.bytes) {
        Bytes::load(codes).look_up(simd, &DOUBLED).scale(simd, half_micro_float(scale), out);
    }
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.bytes[..4].copy_from_slice(&block[..4]);
    for (group, codes) in codes.chunks_exact_mut(16).enumerate() {
        for (i, &byte) in block[4 + 8 * group..][..8].iter().enumerate() {
            (codes[i], codes[8 + i]) = (byte & 15, byte >> 4);
        }
    }
}

/// Half of an E4M3 number, whose sign is ignored. The byte that means NaN counts as 0, as it does to GGUF's own tools.
#[inline(always)]
pub(super) fn half_micro_float(byte: u8) -> f32 {
    let (exponent, fraction) = (u32::from(byte >> 3 & 15), u32::from(byte & 7));
    if byte == 0x7F {
        0.0
    } else if exponent == 0 {
        fraction as f32 * f32::from_bits((127 - 10) << 23)
    } else {
        f32::from_bits((exponent + 127 - 8) << 23 | fraction << 20)
    }
}
