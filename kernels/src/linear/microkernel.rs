//! The innermost loop of `linear`: a few rows of `x` times four weight rows, all in vector registers.
//!
//! An output is the sum over k of `x[k] · weight[k]`, kept in `LANES` partial sums (lane `k % LANES`, ascending k, one
//! fused multiply-add each where the machine has it) that are added in a fixed tree. Nothing else enters, so the bits
//! do not depend on how many rows are computed together.

use crate::cpu::SimdLevel;

/// Weight rows of one call: with one row of `x` they still keep the multiply-add units busy.
pub(super) const WEIGHT_ROWS: usize = 4;

/// Most rows of `x` in one call.
pub(super) const MAX_ROWS: usize = 6;

/// Weight rows are padded with zeros to a multiple of this, the widest vector.
pub(super) const PADDING: usize = 16;

/// `sums[r][w]` of a call.
pub(super) type Sums = [[f32; WEIGHT_ROWS]; MAX_ROWS];

/// Rows of `x` that one call can have.
pub(super) fn most_rows(simd: SimdLevel) -> usize {
    match simd {
        SimdLevel::Portable => portable::ROWS,
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx2 | SimdLevel::AvxVnni => avx2::ROWS,
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx512 | SimdLevel::Avx512Bf16 => avx512::ROWS,
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("an x86 instruction set"),
    }
}

/// Rows that one call should get when `rows` are left: even shares.
pub(super) fn rows_of_next_call(simd: SimdLevel, rows: usize) -> usize {
    rows.div_ceil(rows.div_ceil(most_rows(simd)))
}

/// `sums[r][w] = x[r] · weights[w]`. `weights`: `WEIGHT_ROWS` rows of `stride` elements, zero from the length of the rows
/// of `x` on; `stride` is a multiple of `PADDING`. All rows of `x` have one length.
pub(super) fn multiply(
    simd: SimdLevel,
    weights: &[f32],
    stride: usize,
    x: &[&[f32]],
    sums: &mut Sums,
) {
    match simd {
        SimdLevel::Portable => portable::multiply(weights, stride, x, sums),
        // SAFETY: a SimdLevel beyond Portable exists only where the machine has it.
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx2 | SimdLevel::AvxVnni => unsafe { avx2::multiply(weights, stride, x, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx512 | SimdLevel::Avx512Bf16 => unsafe {
            avx512::multiply(weights, stride, x, sums);
        },
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("an x86 instruction set"),
    }
}

/// The same loop for each instruction set. The module around it has `Vector`, `LANES`, `ROWS`, `zero`, `load`,
/// `multiply_add` and `sum_lanes`.
macro_rules! microkernel {
    ($($feature:meta)?) => {
        $(#[$feature])?
        pub(super) fn multiply(weights: &[f32], stride: usize, x: &[&[f32]], sums: &mut Sums) {
            match x.len() {
                1 => multiply_rows::<1>(weights, stride, x, sums),
                2 => multiply_rows::<2>(weights, stride, x, sums),
                3 => multiply_rows::<3>(weights, stride, x, sums),
                4 => multiply_rows::<4>(weights, stride, x, sums),
                5 => multiply_rows::<5>(weights, stride, x, sums),
                6 => multiply_rows::<6>(weights, stride, x, sums),
                rows => unreachable!("rows_of_next_call gives 1..=6 rows, not {rows}"),
            }
        }

        $(#[$feature])?
        fn multiply_rows<const ROWS: usize>(
            weights: &[f32],
            stride: usize,
            x: &[&[f32]],
            sums: &mut Sums,
        ) {
            let x: &[&[f32]; ROWS] = x.try_into().expect("multiply counts the rows");
            let k = x[0].len();
            let whole = k / LANES * LANES;
            assert!(weights.len() >= WEIGHT_ROWS * stride && stride >= k.next_multiple_of(LANES));
            assert!(x.iter().all(|row| row.len() == k));
            let mut acc = [[zero(); WEIGHT_ROWS]; ROWS];
            let mut at = 0;
            while at < whole {
                let mut x_lanes = [zero(); ROWS];
                for r in 0..ROWS {
                    // SAFETY: at + LANES <= k, the length of every row.
                    x_lanes[r] = unsafe { load(x[r].as_ptr().add(at)) };
                }
                for i in 0..WEIGHT_ROWS {
                    // SAFETY: at + LANES <= stride, and there are WEIGHT_ROWS rows of stride elements.
                    let w = unsafe { load(weights.as_ptr().add(i * stride + at)) };
                    for r in 0..ROWS {
                        acc[r][i] = multiply_add(w, x_lanes[r], acc[r][i]);
                    }
                }
                at += LANES;
            }
            if whole < k {
                for r in 0..ROWS {
                    let mut tail = [0.0; LANES];
                    tail[..k - whole].copy_from_slice(&x[r][whole..]);
                    // SAFETY: the array has LANES elements.
                    let x = unsafe { load(tail.as_ptr()) };
                    for i in 0..WEIGHT_ROWS {
                        // SAFETY: stride is at least k rounded up to LANES.
                        let w = unsafe { load(weights.as_ptr().add(i * stride + whole)) };
                        acc[r][i] = multiply_add(w, x, acc[r][i]);
                    }
                }
            }
            for r in 0..ROWS {
                sums[r] = sum_lanes(acc[r]);
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    #[allow(clippy::wildcard_imports, reason = "every name of it starts with _mm")]
    use std::arch::x86_64::*;

    use super::{Sums, WEIGHT_ROWS};

    type Vector = __m512;
    const LANES: usize = 16;
    /// 24 partial sums, 6 rows of x and a weight: 31 of 32 registers.
    pub(super) const ROWS: usize = 6;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn zero() -> Vector {
        _mm512_setzero_ps()
    }

    /// # Safety
    /// `LANES` floats are readable from `from`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn load(from: *const f32) -> Vector {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn multiply_add(a: Vector, b: Vector, sum: Vector) -> Vector {
        _mm512_fmadd_ps(a, b, sum)
    }

    /// Lanes 8, 4, 2, 1 apart are added in turn; four sums at once share the steps.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn sum_lanes([a, b, c, d]: [Vector; WEIGHT_ROWS]) -> [f32; WEIGHT_ROWS] {
        let halves = |a, b| {
            _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xEE>(a, b))
        };
        let (ab, cd) = (halves(a, b), halves(c, d));
        let quarters = _mm512_add_ps(
            _mm512_shuffle_f32x4::<0x88>(ab, cd),
            _mm512_shuffle_f32x4::<0xDD>(ab, cd),
        );
        let pairs = _mm512_add_ps(quarters, _mm512_permute_ps::<0x4E>(quarters));
        let sums = _mm512_add_ps(pairs, _mm512_permute_ps::<0xB1>(pairs));
        let first_of_quarters = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        let sums = _mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_quarters, sums));
        let mut out = [0.0; WEIGHT_ROWS];
        // SAFETY: `out` has room for four floats.
        unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
        out
    }

    microkernel!(target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq"));
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    #[allow(clippy::wildcard_imports, reason = "every name of it starts with _mm")]
    use std::arch::x86_64::*;

    use super::{Sums, WEIGHT_ROWS};

    type Vector = __m256;
    const LANES: usize = 8;
    /// 12 partial sums, 3 rows of x and a weight: 16 registers.
    pub(super) const ROWS: usize = 3;

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn zero() -> Vector {
        _mm256_setzero_ps()
    }

    /// # Safety
    /// `LANES` floats are readable from `from`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn load(from: *const f32) -> Vector {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn multiply_add(a: Vector, b: Vector, sum: Vector) -> Vector {
        _mm256_fmadd_ps(a, b, sum)
    }

    /// Neighbours are added, then neighbouring pairs, then the halves; four sums at once share the steps.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn sum_lanes([a, b, c, d]: [Vector; WEIGHT_ROWS]) -> [f32; WEIGHT_ROWS] {
        let halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
        let sums = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
        let mut out = [0.0; WEIGHT_ROWS];
        // SAFETY: `out` has room for four floats.
        unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
        out
    }

    microkernel!(target_feature(enable = "avx2,fma"));
}

mod portable {
    use super::{Sums, WEIGHT_ROWS};

    type Vector = [f32; LANES];
    const LANES: usize = 8;
    pub(super) const ROWS: usize = 2;

    #[inline]
    fn zero() -> Vector {
        [0.0; LANES]
    }

    /// # Safety
    /// `LANES` floats are readable from `from`.
    #[inline]
    unsafe fn load(from: *const f32) -> Vector {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Vector>().read() }
    }

    /// Not fused: without the instruction a fused one is a call into the C library.
    #[inline]
    fn multiply_add(a: Vector, b: Vector, mut sum: Vector) -> Vector {
        for lane in 0..LANES {
            sum[lane] += a[lane] * b[lane];
        }
        sum
    }

    #[inline]
    fn sum_lanes(sums: [Vector; WEIGHT_ROWS]) -> [f32; WEIGHT_ROWS] {
        sums.map(|lanes| lanes.iter().sum())
    }

    microkernel!();
}
