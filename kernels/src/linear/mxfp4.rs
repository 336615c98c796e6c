//! MXFP4: 32 weights as one power of two (E8M0), 16 bytes of E2M1 numbers (low halves first). Source: OCP Microscaling
//! Formats 1.0. `x = 2^(e − 127) · value`; the table holds doubled values, so the scale is halved.

use super::bytes::Bytes;
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;

pub(super) const ELEMENTS: usize = 32;
pub(super) const BYTES: usize = 17;
pub(super) const PACKING: Packing =
    Packing { codes: Codes::Table(&DOUBLED), scales: Scales::Exponent };

pub(super) const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

#[inline(always)]
pub(super) fn dequantize_block(simd: SimdLevel, block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let exponent = u32::from(block[0]);
    // Half of the two smallest powers is subnormal in float32.
    let bits = if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 };
    let half = f32::from_bits(bits);
    let bytes = Bytes::load(&block[1..]);
    bytes.bits(0, 15).look_up(simd, &DOUBLED).scale(simd, half, out);
    bytes.bits(4, 15).look_up(simd, &DOUBLED).scale(simd, half, &mut out[16..]);
}

/// Codes and scales as they are packed.
#[inline(always)]
pub(super) fn split(block: &[u8; BYTES], codes: &mut [u8; ELEMENTS], scales: &mut BlockScales) {
    scales.bytes[0] = block[0];
    let bytes = Bytes::load(&block[1..]);
    bytes.bits(0, 15).store(codes);
    bytes.bits(4, 15).store(&mut codes[16..]);
}
