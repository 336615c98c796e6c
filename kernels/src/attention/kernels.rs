//! The inner loops of `attention`: one choice of instruction set a call, and what all sets agree on.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use super::portable;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::cpu::SimdLevel;
use crate::cpu::math::{per_simd_level, tanh};
use crate::tensor::DType;

/// Positions whose scores are computed together. Chunks are aligned to position 0, so that the rounding of a row
/// depends on its position alone. Part of the result's definition.
pub(super) const CHUNK: usize = 64;

/// Columns of the score matrix, and of everything padded, come in multiples of this: the widest register.
pub(super) const STRIP: usize = 16;

/// Matrix product `c = c·rescale + a·b` or `c = a·b`, row-major with row strides in elements.
/// Each element of c is one chain of multiply-adds in the order of depth, so blocking never changes a result.
pub(super) struct Product {
    /// `[num_rows, depth]`
    pub a: *const f32,
    pub a_stride: usize,
    /// `[depth, num_cols]`
    pub b: *const f32,
    pub b_stride: usize,
    /// `[num_rows, num_cols]`
    pub c: *mut f32,
    pub c_stride: usize,
    pub num_rows: usize,
    /// A multiple of `STRIP`.
    pub num_cols: usize,
    pub depth: usize,
    /// `[num_rows]`; null: c is overwritten.
    pub rescale: *const f32,
}

/// # Safety
/// The three matrices and `rescale` must be live, and c must not overlap the others.
pub(super) unsafe fn multiply(simd: SimdLevel, product: &Product) {
    // SAFETY: the caller's promise; a device only has a level that its machine has.
    unsafe {
        match simd {
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 => avx512::multiply(product),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 | SimdLevel::AvxVnni => avx2::multiply(product),
            _ => portable::multiply(product),
        }
    }
}

/// Rows of a page (`head_dim` elements of `dtype` each), one a position.
pub(super) struct PageRows<'a> {
    pub pointers: &'a [*const u8],
    pub dtype: DType,
    pub head_dim: usize,
}

/// `out[d][i] = rows[i][d]` as F32, with row stride `CHUNK`. The number of rows is a multiple of `STRIP`.
///
/// # Safety
/// Every row must be readable and `out` must hold `head_dim · CHUNK` numbers.
pub(super) unsafe fn transpose(simd: SimdLevel, rows: &PageRows, out: *mut f32) {
    // SAFETY: as in `multiply`.
    unsafe {
        match simd {
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 => avx512::transpose(rows, out),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 | SimdLevel::AvxVnni => avx2::transpose(rows, out),
            _ => portable::transpose(rows, out),
        }
    }
}

/// `out[i][d] = rows[i][d]` as F32, with row stride `stride`; what lies beyond `head_dim` is left or made 0.
///
/// # Safety
/// Every row must be readable and `out` must hold `stride` numbers a row; `stride` is a multiple of `STRIP`.
unsafe fn widen(simd: SimdLevel, rows: &PageRows, out: *mut f32, stride: usize) {
    // SAFETY: as in `multiply`.
    unsafe {
        match simd {
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 => avx512::widen(rows, out, stride),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 | SimdLevel::AvxVnni => avx2::widen(rows, out, stride),
            _ => portable::widen(rows, out, stride),
        }
    }
}

/// `multiply` with the page rows as b: widened into `values` (which `product.b` points to) and multiplied, or both at
/// once where few rows share the values, as in decode. Either way gives the same bits.
///
/// # Safety
/// As for `widen` with row stride `product.b_stride`, and as for `multiply`.
pub(super) unsafe fn multiply_pages(
    simd: SimdLevel,
    rows: &PageRows,
    values: *mut f32,
    product: &Product,
) {
    // SAFETY: the caller's promise; a device only has a level that its machine has.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if simd == SimdLevel::Avx512 && avx512::multiplies_pages(rows, product) {
            avx512::multiply_pages(rows, product);
            return;
        }
        widen(simd, rows, values, product.b_stride);
        multiply(simd, product);
    }
}

/// The running softmax of one row over the chunks seen so far.
#[derive(Clone, Copy)]
pub(super) struct Running {
    /// Largest score.
    pub maximum: f32,
    /// Σ exp(score − maximum).
    pub sum: f32,
}

impl Running {
    pub(super) const EMPTY: Self = Self { maximum: f32::NEG_INFINITY, sum: 0.0 };
}

/// The scores of one chunk, `[rows][CHUNK]`.
pub(super) struct ChunkScores<'a> {
    pub scores: &'a mut [f32],
    /// Positions of the chunk that each row sees: `visible[row] = [from, to)`, empty when equal.
    pub visible: &'a [(u32, u32)],
    pub softcap: Option<f32>,
    pub running: &'a mut [Running],
    /// Out: what the weighted values of earlier chunks must be multiplied with.
    pub rescale: &'a mut [f32],
}

/// Turns scores into weights exp(score − maximum), 0 where a row does not see, and updates the running softmax.
pub(super) fn softmax(simd: SimdLevel, chunk: &mut ChunkScores) {
    if let Some(softcap) = chunk.softcap {
        cap_scores(simd, chunk.scores, softcap);
    }
    let rows = chunk.scores.chunks_exact_mut(CHUNK).zip(chunk.visible);
    let states = chunk.running.iter_mut().zip(chunk.rescale.iter_mut());
    for ((scores, &(from, to)), (running, rescale)) in rows.zip(states) {
        let scores: &mut [f32; CHUNK] = scores.try_into().expect("CHUNK scores");
        if from == to {
            scores.fill(0.0);
            *rescale = 1.0;
            continue;
        }
        let visible = (u64::MAX << from) & (u64::MAX >> (CHUNK as u32 - to));
        *rescale = match simd {
            // SAFETY: a device only has a level that its machine has.
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 => unsafe { avx512::softmax_row(scores, visible, running) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 | SimdLevel::AvxVnni => unsafe {
                avx2::softmax_row(scores, visible, running)
            },
            _ => portable::softmax_row(scores, visible, running),
        };
    }
}

per_simd_level! {
    fn cap_scores(scores: &mut [f32], softcap: f32) = cap_scores_body
}

#[inline(always)]
fn cap_scores_body<const FMA: bool>(scores: &mut [f32], softcap: f32) {
    let inverse = 1.0 / softcap;
    for score in scores {
        *score = softcap * tanh::<FMA>(*score * inverse);
    }
}
