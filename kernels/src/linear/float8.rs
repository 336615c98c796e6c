//! E4M3 floats (OCP 8-bit floating point, 1.0): a sign, 4 bits of exponent with bias 7, 3 bits of fraction, no infinities.

use crate::cpu::math::per_simd_level;

/// Exact; the two bytes that mean NaN give one.
#[inline(always)]
pub(super) fn float8_to_f32(byte: u8) -> f32 {
    let magnitude = u32::from(byte & 0x7F);
    // The exponent bias grows by 127 − 7; a multiplication also gets subnormal numbers right.
    let value = f32::from_bits(magnitude << 20) * f32::from_bits((127 + 127 - 7) << 23);
    let value = if magnitude == 0x7F { f32::NAN } else { value };
    f32::from_bits(value.to_bits() | u32::from(byte & 0x80) << 24)
}

per_simd_level! {
    /// `out[i] = bytes[i] · scale`.
    pub(super) fn scale_float8(bytes: &[u8], scale: f32, out: &mut [f32]) = scale_body
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
