//! E4M3 floats (OCP 8-bit floating point, 1.0): a sign, 4 bits of exponent with bias 7, 3 bits of fraction, no infinities.
//! They are numbers of weights and, with `--kv-cache-dtype fp8`, of keys and values (`cuda/float8.cuh` is the same there).
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use crate::cpu::math::per_simd_level;

/// Exact; the two bytes that mean NaN give one.
#[inline(always)]
pub(crate) fn float8_to_f32(byte: u8) -> f32 {
    let magnitude = u32::from(byte & 0x7F);
    // The exponent bias grows by 127 − 7; a multiplication also gets subnormal numbers right.
    let value = f32::from_bits(magnitude << 20) * f32::from_bits((127 + 127 - 7) << 23);
    let value = if magnitude == 0x7F { f32::NAN } else { value };
    f32::from_bits(value.to_bits() | u32::from(byte & 0x80) << 24)
}

/// The largest number.
const LARGEST: f32 = 448.0;
/// The smallest number whose fraction has all three bits.
const SMALLEST_NORMAL: f32 = 0.015_625;
/// Numbers below that are multiples of 2⁻⁹: adding this leaves how many in the low bits.
const TO_SUBNORMAL: f32 = 16_384.0;

/// Rounded to nearest even; beyond the largest number that one, with its sign. A NaN stays one.
#[inline(always)]
pub(crate) fn f32_to_float8(x: f32) -> u8 {
    let (sign, magnitude) = ((x.to_bits() >> 24) as u8 & 0x80, x.abs());
    let bits = magnitude.to_bits();
    sign | if x.is_nan() {
        0x7F
    } else if magnitude >= LARGEST {
        0x7E
    } else if magnitude >= SMALLEST_NORMAL {
        (((bits + 0x7_FFFF + (bits >> 20 & 1)) >> 20) - ((127 - 7) << 3)) as u8
    } else {
        (magnitude + TO_SUBNORMAL).to_bits() as u8
    }
}

per_simd_level! {
    /// `out[i] = bytes[i] · scale`.
    pub(crate) fn scale_float8(bytes: &[u8], scale: f32, out: &mut [f32]) = scale_body
}

#[inline(always)]
fn scale_body<const FMA: bool>(bytes: &[u8], scale: f32, out: &mut [f32]) {
    for (out, &byte) in out.iter_mut().zip(bytes) {
        *out = float8_to_f32(byte) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nearest of all numbers, found by trying each; of two the one whose last bit is 0.
    fn nearest(x: f32) -> u8 {
        let sign = if x.is_sign_negative() { 0x80 } else { 0 };
        let distance = |code: &u8| (f64::from(float8_to_f32(*code)) - f64::from(x.abs())).abs();
        let by_distance =
            |a: &u8, b: &u8| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1)));
        sign | (0..0x7F_u8).min_by(by_distance).expect("there are numbers")
    }

    #[test]
    fn every_number_is_rounded_to_the_nearest() {
        let codes = || (0..0x7E_u8).map(float8_to_f32);
        // Each number, the middle to the next, and what lies closely around both.
        let middles = codes().zip((1..0x7F_u8).map(float8_to_f32)).map(|(a, b)| a.midpoint(b));
        let around = |x: f32| [x, x.next_up(), x.next_down(), -x];
        let others = [0.0, 1e-30, 447.9, 448.0, 463.0, 464.0, 480.0, 1e9];
        for x in codes().chain(middles).chain(others).flat_map(around) {
            assert_eq!(f32_to_float8(x), nearest(x), "{x}");
        }
        assert_eq!([f32::INFINITY, f32::NEG_INFINITY].map(f32_to_float8), [0x7E, 0xFE]);
        assert_eq!([f32::NAN, -f32::NAN].map(|x| f32_to_float8(x) & 0x7F), [0x7F; 2]);
    }

    /// From the definition, with powers.
    #[test]
    fn every_byte_converts_exactly() {
        for byte in 0..=u8::MAX {
            let (exponent, fraction) = (i32::from(byte >> 3 & 15), f64::from(byte & 7) / 8.0);
            let magnitude = match exponent {
                0 => fraction * 2.0_f64.powi(-6),
                _ => (1.0 + fraction) * 2.0_f64.powi(exponent - 7),
            };
            let expected = if byte & 0x80 == 0 { magnitude } else { -magnitude };
            let got = float8_to_f32(byte);
            match byte & 0x7F {
                0x7F => assert!(got.is_nan()),
                _ => assert_eq!(f64::from(got), expected, "{byte:#x}"),
            }
        }
    }
}
