//! One row of x to integers, for each instruction set.

use super::BLOCK;
use super::activations::{Extra, Extras, PANEL};
use crate::cpu::SimdLevel;
use crate::cpu::math::TO_INTEGER;

/// Blocks whose numbers are all smaller count as zero, so that no product below gets subnormal.
const SMALLEST: f32 = 1e-30;

/// Where a row of a panel goes.
pub(super) struct Target<'a> {
    pub codes: &'a mut [u8],
    pub params: &'a mut [u32],
    pub row: usize,
    pub extras: Extras,
    /// 16 bits instead of 8.
    pub wide: bool,
}

pub(super) fn quantize_row(simd: SimdLevel, x: &[f32], target: Target<'_>) {
    match simd {
        SimdLevel::Portable => row_of::<Plain>(x, target),
        // SAFETY: a SimdLevel beyond Portable exists only where the machine has it.
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx2 | SimdLevel::AvxVnni => unsafe { x86::row_avx2(x, target) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx512 | SimdLevel::Avx512Bf16 => unsafe { x86::row_avx512(x, target) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("an x86 instruction set"),
    }
}

#[inline(always)]
fn row_of<Q: Quantize>(x: &[f32], target: Target<'_>) {
    if target.wide { blocks_of::<Q, true>(x, target) } else { blocks_of::<Q, false>(x, target) }
}

#[inline(always)]
fn blocks_of<Q: Quantize, const WIDE: bool>(x: &[f32], target: Target<'_>) {
    let Target { codes, params, row, extras, .. } = target;
    let code_bytes = if WIDE { 2 * BLOCK } else { BLOCK };
    let at = |extra| extras.has(extra).then(|| extras.offset(extra) + row);
    let (sum, bias) = (at(Extra::Sum), at(Extra::Bias));
    let (half_sums, half_biases) = (at(Extra::HalfSums), at(Extra::HalfBiases));
    let blocks = codes.chunks_exact_mut(PANEL * code_bytes);
    let blocks = blocks.zip(params.chunks_exact_mut(extras.stride()));
    for (index, (codes, params)) in blocks.enumerate() {
        // A block that pads the last pair is zero.
        let block = x.as_chunks().0.get(index).unwrap_or(&[0.0; BLOCK]);
        let codes = &mut codes[row * code_bytes..][..code_bytes];
        // SAFETY: the caller is compiled for an instruction set that the machine has.
        let (scale, sums) = unsafe { Q::quantize::<WIDE>(block, codes) };
        let float = |sum: i32| (scale * sum as f32).to_bits();
        let negative = |sum: i32| (-128 * sum).cast_unsigned();
        params[row] = scale.to_bits();
        if let Some(at) = sum {
            params[at] = float(sums[0] + sums[1]);
        }
        if let Some(at) = bias {
            params[at] = negative(sums[0] + sums[1]);
        }
        if let Some(at) = half_sums {
            (params[at], params[at + PANEL]) = (float(sums[0]), float(sums[1]));
        }
        if let Some(at) = half_biases {
            (params[at], params[at + PANEL]) = (negative(sums[0]), negative(sums[1]));
        }
    }
}

/// Scale, and what numbers are multiplied with, for a block's largest magnitude. A number that is not finite makes the
/// scale not finite.
#[inline(always)]
fn scale_and_inverse<const WIDE: bool>(largest: u32) -> (f32, f32) {
    let (largest, steps) = (f32::from_bits(largest), if WIDE { 32512.0 } else { 127.0 });
    if largest < SMALLEST { (0.0, 0.0) } else { (largest / steps, steps / largest) }
}

trait Quantize {
    /// Scale of the block and the sums of its halves' integers; the integers go to `codes`: bytes, or 16-bit numbers of
    /// which in each four the first and third come first (the even and the odd bytes of weights are operands apart).
    /// Magnitudes are compared as their bits, which puts a NaN above all.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn quantize<const WIDE: bool>(x: &[f32; BLOCK], codes: &mut [u8]) -> (f32, [i32; 2]);
}

struct Plain;

impl Quantize for Plain {
    unsafe fn quantize<const WIDE: bool>(x: &[f32; BLOCK], codes: &mut [u8]) -> (f32, [i32; 2]) {
        let largest = x.iter().fold(0, |largest: u32, x| largest.max(x.to_bits() & 0x7FFF_FFFF));
        let (scale, inverse) = scale_and_inverse::<WIDE>(largest);
        let integers = x.map(|x| {
            let shifted = (x * inverse + TO_INTEGER).to_bits();
            let integer = shifted.cast_signed().wrapping_sub(TO_INTEGER.to_bits().cast_signed());
            // What came of a NaN stays small too.
            i32::from(integer as i16)
        });
        for (index, integer) in integers.into_iter().enumerate() {
            if WIDE {
                let at = 2 * (index / 4 * 4 + [0, 2, 1, 3][index % 4]);
                codes[at..at + 2].copy_from_slice(&(integer as i16).to_le_bytes());
            } else {
                codes[index] = integer as u8;
            }
        }
        let (first, second) = integers.split_at(BLOCK / 2);
        (scale, [first.iter().sum(), second.iter().sum()])
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #[allow(clippy::wildcard_imports, reason = "every name of it starts with _mm")]
    use std::arch::x86_64::*;

    use super::{BLOCK, Quantize, Target, row_of, scale_and_inverse};

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
    pub(super) fn row_avx512(x: &[f32], target: Target<'_>) {
        row_of::<Avx512>(x, target);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn row_avx2(x: &[f32], target: Target<'_>) {
        row_of::<Avx2>(x, target);
    }

    /// Words 0, 2, 1, 3 of each four.
    const EVEN_FIRST: i32 = 0b11_01_10_00;

    struct Avx512;

    impl Quantize for Avx512 {
        #[inline(always)]
        unsafe fn quantize<const WIDE: bool>(
            x: &[f32; BLOCK],
            codes: &mut [u8],
        ) -> (f32, [i32; 2]) {
            let codes = &mut codes[..if WIDE { 2 * BLOCK } else { BLOCK }];
            // SAFETY: BLOCK numbers are readable and as many codes writable.
            unsafe {
                let (a, b) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16)));
                let bits = |x| _mm512_castps_si512(_mm512_abs_ps(x));
                let largest = _mm512_reduce_max_epu32(_mm512_max_epu32(bits(a), bits(b)));
                let (scale, inverse) = scale_and_inverse::<WIDE>(largest);
                let inverse = _mm512_set1_ps(inverse);
                let a = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
                let b = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
                if WIDE {
                    let order = _mm256_shufflehi_epi16::<EVEN_FIRST>;
                    let order_low = _mm256_shufflelo_epi16::<EVEN_FIRST>;
                    let to = codes.as_mut_ptr().cast::<__m256i>();
                    _mm256_storeu_si256(to, order(order_low(_mm512_cvtepi32_epi16(a))));
                    _mm256_storeu_si256(to.add(1), order(order_low(_mm512_cvtepi32_epi16(b))));
                } else {
                    let to = codes.as_mut_ptr().cast::<__m128i>();
                    _mm_storeu_si128(to, _mm512_cvtepi32_epi8(a));
                    _mm_storeu_si128(to.add(1), _mm512_cvtepi32_epi8(b));
                }
                // The sums of a in the lower half, those of b in the upper.
                let sums = _mm512_add_epi32(
                    _mm512_shuffle_i64x2::<0x44>(a, b),
                    _mm512_shuffle_i64x2::<0xEE>(a, b),
                );
                let sums = _mm512_add_epi32(sums, _mm512_shuffle_i64x2::<0xB1>(sums, sums));
                let sums = _mm512_add_epi32(sums, _mm512_shuffle_epi32::<0x4E>(sums));
                let sums = _mm512_add_epi32(sums, _mm512_shuffle_epi32::<0xB1>(sums));
                let first = _mm_cvtsi128_si32(_mm512_castsi512_si128(sums));
                let second = _mm_cvtsi128_si32(_mm512_extracti32x4_epi32::<2>(sums));
                (scale, [first, second])
            }
        }
    }

    struct Avx2;

    impl Quantize for Avx2 {
        #[inline(always)]
        unsafe fn quantize<const WIDE: bool>(
            x: &[f32; BLOCK],
            codes: &mut [u8],
        ) -> (f32, [i32; 2]) {
            let codes = &mut codes[..if WIDE { 2 * BLOCK } else { BLOCK }];
            // SAFETY: BLOCK numbers are readable and as many codes writable.
            unsafe {
                let mut integers = [_mm256_setzero_si256(); 4];
                let mut largest = _mm256_setzero_si256();
                for part in 0..4 {
                    let x = _mm256_loadu_si256(x.as_ptr().add(8 * part).cast());
                    let magnitude = _mm256_and_si256(x, _mm256_set1_epi32(0x7FFF_FFFF));
                    largest = _mm256_max_epu32(largest, magnitude);
                }
                let half = _mm256_extracti128_si256::<1>(largest);
                let largest = _mm_max_epu32(_mm256_castsi256_si128(largest), half);
                let largest = _mm_max_epu32(largest, _mm_shuffle_epi32::<0x4E>(largest));
                let largest = _mm_max_epu32(largest, _mm_shuffle_epi32::<0xB1>(largest));
                let largest = _mm_cvtsi128_si32(largest).cast_unsigned();
                let (scale, inverse) = scale_and_inverse::<WIDE>(largest);
                for part in 0..4 {
                    let x = _mm256_loadu_ps(x.as_ptr().add(8 * part));
                    integers[part] = _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(inverse)));
                }
                let [a, b, c, d] = integers;
                // Packing works on halves apart.
                let first = _mm256_permute4x64_epi64::<0xD8>(_mm256_packs_epi32(a, b));
                let second = _mm256_permute4x64_epi64::<0xD8>(_mm256_packs_epi32(c, d));
                let to = codes.as_mut_ptr().cast::<__m256i>();
                if WIDE {
                    let order = _mm256_shufflehi_epi16::<EVEN_FIRST>;
                    let order_low = _mm256_shufflelo_epi16::<EVEN_FIRST>;
                    _mm256_storeu_si256(to, order(order_low(first)));
                    _mm256_storeu_si256(to.add(1), order(order_low(second)));
                } else {
                    let bytes = _mm256_packs_epi16(first, second);
                    _mm256_storeu_si256(to, _mm256_permute4x64_epi64::<0xD8>(bytes));
                }
                let sums = _mm256_hadd_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
                let sums = _mm_add_epi32(
                    _mm256_castsi256_si128(sums),
                    _mm256_extracti128_si256::<1>(sums),
                );
                let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0xB1>(sums));
                (scale, [_mm_cvtsi128_si32(sums), _mm_extract_epi32::<2>(sums)])
            }
        }
    }
}
