//! Numbers that block formats share: half floats and packed 6-bit scales.

/// Exact for every number; integer and float operations only, so that loops over it use vector registers.
#[inline(always)]
pub(super) fn f16_to_f32(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff);
    // The exponent bias grows by 127 - 15; a multiplication also gets subnormal numbers right.
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 127 - 15) << 23);
    let not_finite = if magnitude >= 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | not_finite | u32::from(half & 0x8000) << 16)
}

/// The bits of the float16 at `block[at..at + 2]`.
#[inline(always)]
pub(super) fn half_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// Scale and minimum (6 bits each) of group `group` (0..8) of a Q4_K or Q5_K block.
#[inline(always)]
pub(super) fn scale_and_min(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let (low, top) = (packed[group + 4], (packed[group - 4] >> 6, packed[group] >> 6));
        ((low & 15) | top.0 << 4, (low >> 4) | top.1 << 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_float_converts_exactly() {
        for bits in 0..=u16::MAX {
            let expected = half::f16::from_bits(bits).to_f32();
            let got = f16_to_f32(bits);
            assert!(got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()));
        }
    }
}
