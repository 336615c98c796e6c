//! Lanes of 256 bits: AVX2, with the dot products of AVX-VNNI or without.

#[allow(clippy::wildcard_imports, reason = "every name of it starts with _mm")]
use std::arch::x86_64::*;

use super::kernel::{Call, Kind, Prefetch, multiply};
use super::lanes::Lanes;

/// `VNNI`: the machine has AVX-VNNI.
#[derive(Clone, Copy)]
pub(super) struct Avx2<const VNNI: bool>;

/// # Safety
/// As for `Lanes::multiply`.
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_avx2<K: Kind, const ROWS: usize>(call: &Call, prefetch: &mut Prefetch) {
    // SAFETY: the caller's promise.
    unsafe { multiply::<Avx2<false>, K, ROWS>(call, prefetch) }
}

/// # Safety
/// As for `Lanes::multiply`.
#[target_feature(enable = "avx2,fma,avxvnni")]
unsafe fn multiply_avx_vnni<K: Kind, const ROWS: usize>(call: &Call, prefetch: &mut Prefetch) {
    // SAFETY: the caller's promise.
    unsafe { multiply::<Avx2<true>, K, ROWS>(call, prefetch) }
}

/// The compiler would make a multiplication and an addition of the intrinsic.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn dot_wide(mut sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
    // SAFETY: the instruction touches its operands only.
    unsafe {
        std::arch::asm!(
            "{{vex}} vpdpwssd {sum}, {codes}, {x}",
            sum = inout(ymm_reg) sum,
            codes = in(ymm_reg) codes,
            x = in(ymm_reg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

// The bodies are a few intrinsics each; their promise is the trait's: the instruction set and readable pointers.
#[allow(clippy::undocumented_unsafe_blocks, reason = "see above")]
impl<const VNNI: bool> Lanes for Avx2<VNNI> {
    const BYTES: usize = 32;
    const MOST_ROWS: usize = 4;
    const ANY_BYTE: bool = VNNI;
    type Int = __m256i;
    type Float = __m256;

    unsafe fn multiply<K: Kind, const ROWS: usize>(call: &Call, prefetch: &mut Prefetch) {
        unsafe {
            match VNNI {
                true => multiply_avx_vnni::<K, ROWS>(call, prefetch),
                false => multiply_avx2::<K, ROWS>(call, prefetch),
            }
        }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const u8) -> __m256i {
        unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn load_table(from: *const u8) -> __m256i {
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn and(a: __m256i, bytes: u8) -> __m256i {
        unsafe { _mm256_and_si256(a, _mm256_set1_epi8(bytes.cast_signed())) }
    }

    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn shift(a: __m256i, from: usize, to: usize) -> __m256i {
        unsafe {
            if from > to {
                _mm256_srl_epi16(a, _mm_cvtsi32_si128((from - to) as i32))
            } else {
                _mm256_sll_epi16(a, _mm_cvtsi32_si128((to - from) as i32))
            }
        }
    }

    #[inline(always)]
    unsafe fn widen(a: __m256i, odd: usize) -> __m256i {
        unsafe {
            match odd {
                0 => _mm256_and_si256(a, _mm256_set1_epi16(0xFF)),
                _ => _mm256_srli_epi16::<8>(a),
            }
        }
    }

    #[inline(always)]
    unsafe fn divide(a: __m256i, shift: usize) -> __m256i {
        unsafe { _mm256_sra_epi32(a, _mm_cvtsi32_si128(shift as i32)) }
    }

    #[inline(always)]
    unsafe fn look_up(table: __m256i, indices: __m256i) -> __m256i {
        unsafe { _mm256_shuffle_epi8(table, indices) }
    }

    /// Without VNNI two products are added in 16 bits, which saturate unless codes stay below 129.
    #[inline(always)]
    unsafe fn dot(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        unsafe {
            if VNNI {
                return _mm256_dpbusd_avx_epi32(sum, codes, x);
            }
            let pairs = _mm256_maddubs_epi16(codes, x);
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    unsafe fn dot_signed(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        unsafe {
            let codes = _mm256_xor_si256(codes, _mm256_set1_epi8(i8::MIN));
            Self::dot(sum, _mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes))
        }
    }

    #[inline(always)]
    unsafe fn dot_wide(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        unsafe {
            if VNNI {
                return dot_wide(sum, codes, x);
            }
            _mm256_add_epi32(sum, _mm256_madd_epi16(codes, x))
        }
    }

    #[inline(always)]
    unsafe fn to_float(a: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(a) }
    }

    #[inline(always)]
    unsafe fn load_float(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store_float(to: *mut f32, a: __m256) {
        unsafe { _mm256_storeu_ps(to, a) }
    }

    #[inline(always)]
    unsafe fn splat_float(from: *const f32) -> __m256 {
        unsafe { _mm256_set1_ps(from.read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn multiply_float(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
}
