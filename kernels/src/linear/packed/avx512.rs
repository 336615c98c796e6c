//! Lanes of 512 bits: AVX-512 with VNNI.

#[allow(clippy::wildcard_imports, reason = "every name of it starts with _mm")]
use std::arch::x86_64::*;

use super::kernel::{Call, Kind, Prefetch, multiply};
use super::lanes::Lanes;

#[derive(Clone, Copy)]
pub(super) struct Avx512;

/// # Safety
/// As for `Lanes::multiply`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")]
unsafe fn multiply_avx512<K: Kind, const ROWS: usize>(call: &Call, prefetch: &mut Prefetch) {
    // SAFETY: the caller's promise.
    unsafe { multiply::<Avx512, K, ROWS>(call, prefetch) }
}

/// The compiler would make a multiplication and an addition of the intrinsic.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot_wide(mut sum: __m512i, codes: __m512i, x: __m512i) -> __m512i {
    // SAFETY: the instruction touches its operands only.
    unsafe {
        std::arch::asm!(
            "vpdpwssd {sum}, {codes}, {x}",
            sum = inout(zmm_reg) sum,
            codes = in(zmm_reg) codes,
            x = in(zmm_reg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

// The bodies are one intrinsic each; their promise is the trait's: the instruction set and readable pointers.
#[allow(clippy::undocumented_unsafe_blocks, reason = "see above")]
impl Lanes for Avx512 {
    const BYTES: usize = 64;
    // More would not leave a register for each sum.
    const MOST_ROWS: usize = 4;
    const ANY_BYTE: bool = true;
    type Int = __m512i;
    type Float = __m512;

    unsafe fn multiply<K: Kind, const ROWS: usize>(call: &Call, prefetch: &mut Prefetch) {
        unsafe { multiply_avx512::<K, ROWS>(call, prefetch) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const u8) -> __m512i {
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn load_table(from: *const u8) -> __m512i {
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn and(a: __m512i, bytes: u8) -> __m512i {
        unsafe { _mm512_and_si512(a, _mm512_set1_epi8(bytes.cast_signed())) }
    }

    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn shift(a: __m512i, from: usize, to: usize) -> __m512i {
        unsafe {
            if from > to {
                _mm512_srl_epi16(a, _mm_cvtsi32_si128((from - to) as i32))
            } else {
                _mm512_sll_epi16(a, _mm_cvtsi32_si128((to - from) as i32))
            }
        }
    }

    #[inline(always)]
    unsafe fn widen(a: __m512i, odd: usize) -> __m512i {
        unsafe {
            match odd {
                0 => _mm512_and_si512(a, _mm512_set1_epi16(0xFF)),
                _ => _mm512_srli_epi16::<8>(a),
            }
        }
    }

    #[inline(always)]
    unsafe fn divide(a: __m512i, shift: usize) -> __m512i {
        unsafe { _mm512_sra_epi32(a, _mm_cvtsi32_si128(shift as i32)) }
    }

    #[inline(always)]
    unsafe fn look_up(table: __m512i, indices: __m512i) -> __m512i {
        unsafe { _mm512_shuffle_epi8(table, indices) }
    }

    #[inline(always)]
    unsafe fn dot(sum: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, codes, x) }
    }

    #[inline(always)]
    unsafe fn dot_signed(_sum: __m512i, _codes: __m512i, _x: __m512i) -> __m512i {
        unreachable!("dot takes any byte")
    }

    #[inline(always)]
    unsafe fn dot_wide(sum: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        unsafe { dot_wide(sum, codes, x) }
    }

    #[inline(always)]
    unsafe fn to_float(a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }

    #[inline(always)]
    unsafe fn load_float(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store_float(to: *mut f32, a: __m512) {
        unsafe { _mm512_storeu_ps(to, a) }
    }

    #[inline(always)]
    unsafe fn splat_float(from: *const f32) -> __m512 {
        unsafe { _mm512_set1_ps(from.read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn multiply_float(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
}
