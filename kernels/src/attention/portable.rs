//! The inner loops of `attention` in plain Rust, for every machine; the softmax also for AVX2, by the compiler.
#![allow(clippy::cast_ptr_alignment, reason = "page rows are aligned to their elements")]
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use std::f32::consts::LOG2_E;

use half::{bf16, f16};

use super::kernels::{CHUNK, ChunkScores, PageMatrix, Product, STRIP};
use crate::cpu::SimdLevel;
use crate::cpu::math::{exp2, per_simd_level, tanh};
use crate::float8::scale_float8;
use crate::tensor::DType;

/// See `kernels::multiply`.
pub(super) unsafe fn multiply(product: &Product) {
    for row in 0..product.num_rows {
        for col in (0..product.num_cols).step_by(STRIP) {
            // SAFETY: the caller's promise holds for each strip.
            unsafe { multiply_strip(product, row, col) };
        }
    }
}

/// One row and `STRIP` columns.
unsafe fn multiply_strip(product: &Product, row: usize, col: usize) {
    // SAFETY: inside the three matrices.
    unsafe {
        let c = product.c.add(row * product.c_stride + col).cast::<[f32; STRIP]>();
        let mut sums = [0.0; STRIP];
        if !product.rescale.is_null() {
            let rescale = *product.rescale.add(row);
            sums = c.read();
            for sum in &mut sums {
                *sum *= rescale;
            }
        }
        for k in 0..product.depth {
            let a = *product.a.add(row * product.a_stride + k);
            let b = &*product.b.add(k * product.b_stride + col).cast::<[f32; STRIP]>();
            sums.iter_mut().zip(b).for_each(|(sum, &b)| *sum += a * b);
        }
        c.write(sums);
    }
}

/// See `kernels::widen`.
pub(super) unsafe fn widen(page: &PageMatrix, out: *mut f32, out_stride: usize) {
    for row in 0..page.rows {
        for col in 0..page.cols {
            // SAFETY: inside the page and inside `out`.
            unsafe {
                *out.add(row * out_stride + col) =
                    element(page.pointer, row * page.stride + col, page.dtype);
            }
        }
    }
}

/// The same of pages of F8E4M3, with any instruction set.
pub(super) unsafe fn widen_float8(
    simd: SimdLevel,
    page: &PageMatrix,
    out: *mut f32,
    out_stride: usize,
) {
    for row in 0..page.rows {
        // SAFETY: inside the page and inside its row of `out`.
        let (codes, out) = unsafe {
            let codes = page.pointer.add(row * page.stride);
            let codes = std::slice::from_raw_parts(codes, page.cols);
            (codes, std::slice::from_raw_parts_mut(out.add(row * out_stride), page.cols))
        };
        scale_float8(simd, codes, 1.0, out);
    }
}

/// Element `index` of a page.
pub(super) unsafe fn element(page: *const u8, index: usize, dtype: DType) -> f32 {
    // SAFETY: the caller names an element of a readable, aligned page.
    unsafe {
        match dtype {
            DType::F16 => (*page.cast::<f16>().add(index)).to_f32(),
            DType::BF16 => (*page.cast::<bf16>().add(index)).to_f32(),
            _ => *page.cast::<f32>().add(index),
        }
    }
}

per_simd_level! {
    /// `out = x · factor`.
    pub(super) fn scale(out: &mut [f32], x: &[f32], factor: f32) = scale_body
}

/// Adding 0 turns −0 into 0: see `tile::normalise`.
#[inline(always)]
fn scale_body<const FMA: bool>(out: &mut [f32], x: &[f32], factor: f32) {
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = x * factor + 0.0);
}

per_simd_level! {
    /// Natural scores become capped logarithms to base 2.
    pub(super) fn cap_scores(scores: &mut [f32], softcap: f32) = cap_scores_body
}

#[inline(always)]
fn cap_scores_body<const FMA: bool>(scores: &mut [f32], softcap: f32) {
    let (inverse, factor) = (1.0 / softcap, softcap * LOG2_E);
    for score in scores {
        *score = factor * tanh::<FMA>(*score * inverse);
    }
}

per_simd_level! {
    /// See `kernels::softmax`.
    pub(super) fn softmax(chunk: &mut ChunkScores<'_>) = softmax_body
}

#[inline(always)]
fn softmax_body<const FMA: bool>(chunk: &mut ChunkScores) {
    let is_full = chunk.is_full();
    for row in 0..chunk.visible.len() {
        let mask = if is_full { u64::MAX } else { chunk.mask(row) };
        let (scores, _) = chunk.scores[row * CHUNK..][..CHUNK].as_chunks_mut::<STRIP>();
        let mut largest = [f32::NEG_INFINITY; STRIP];
        for (strip, scores) in scores.iter_mut().enumerate() {
            let mask = (mask >> (strip * STRIP)) as u16;
            for (lane, (score, largest)) in scores.iter_mut().zip(&mut largest).enumerate() {
                *score = if mask >> lane & 1 == 1 { *score } else { f32::NEG_INFINITY };
                *largest = if *score > *largest { *score } else { *largest };
            }
        }
        let old = chunk.maximum[row];
        let maximum = largest.into_iter().fold(old, |a, b| if b > a { b } else { a });
        let shift = if maximum == f32::NEG_INFINITY { 0.0 } else { maximum };
        let rescale = exp2::<FMA>(old - shift);
        let mut sums = chunk.sums[row].map(|sum| sum * rescale);
        for scores in scores {
            for (score, sum) in scores.iter_mut().zip(&mut sums) {
                *score = exp2::<FMA>(*score - shift);
                *sum += *score;
            }
        }
        (chunk.maximum[row], chunk.sums[row], chunk.rescale[row]) = (maximum, sums, rescale);
    }
}
