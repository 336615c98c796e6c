//! Decode with AVX-512: few rows times a chunk as it lies in the pages, while the next chunk comes from memory.
#![allow(clippy::wildcard_imports, reason = "intrinsics say where they come from")]

use std::arch::x86_64::*;

use super::avx512::{BF16, F16, F32, load};
use super::kernels::{CHUNK, PageProduct, STRIP, STRIPS};
use crate::cpu::{CACHE_LINE, prefetch_line};
use crate::tensor::DType;

/// Calls `$function::<rows, vectors, TYPE>(…)`: as many vectors as the registers hold for that many rows.
macro_rules! with_shape {
    ($product:ident, $vectors:expr, $function:ident::<$type:ident>($($argument:expr),*)) => {
        match ($product.num_rows, $vectors) {
            (1, 4) => $function::<1, 4, $type>($($argument),*),
            (1, 2) => $function::<1, 2, $type>($($argument),*),
            (1, _) => $function::<1, 1, $type>($($argument),*),
            (2, 4) => $function::<2, 4, $type>($($argument),*),
            (2, 2) => $function::<2, 2, $type>($($argument),*),
            (2, _) => $function::<2, 1, $type>($($argument),*),
            (3, 4) => $function::<3, 4, $type>($($argument),*),
            (3, 2) => $function::<3, 2, $type>($($argument),*),
            (3, _) => $function::<3, 1, $type>($($argument),*),
            (4, 4) => $function::<4, 4, $type>($($argument),*),
            (4, 2) => $function::<4, 2, $type>($($argument),*),
            (4, _) => $function::<4, 1, $type>($($argument),*),
            (5, 4) => $function::<5, 4, $type>($($argument),*),
            (5, 2) => $function::<5, 2, $type>($($argument),*),
            (5, _) => $function::<5, 1, $type>($($argument),*),
            (6, 4) => $function::<6, 4, $type>($($argument),*),
            (6, 2) => $function::<6, 2, $type>($($argument),*),
            (6, _) => $function::<6, 1, $type>($($argument),*),
            (7, 2) => $function::<7, 2, $type>($($argument),*),
            (7, _) => $function::<7, 1, $type>($($argument),*),
            (_, 2) => $function::<8, 2, $type>($($argument),*),
            _ => $function::<8, 1, $type>($($argument),*),
        }
    };
}

/// See `kernels::score_pages`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn score(product: &PageProduct) {
    // SAFETY: the caller's promise.
    unsafe {
        match product.dtype {
            DType::F16 => score_from::<F16>(product),
            DType::BF16 => score_from::<BF16>(product),
            _ => score_from::<F32>(product),
        }
    }
}

/// See `kernels::weigh_pages`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn weigh(product: &PageProduct) {
    // SAFETY: the caller's promise.
    unsafe {
        match product.dtype {
            DType::F16 => weigh_from::<F16>(product),
            DType::BF16 => weigh_from::<BF16>(product),
            _ => weigh_from::<F32>(product),
        }
    }
}

/// Most vectors of columns for this many rows: the sums must fit the registers.
fn most_vectors(num_rows: usize) -> usize {
    if num_rows <= 6 { 4 } else { 2 }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn score_from<const TYPE: u8>(product: &PageProduct) {
    let most = most_vectors(product.num_rows);
    let (mut strip, end) = (product.seen.start / STRIP, product.seen.end.div_ceil(STRIP));
    while strip < end {
        // Three strips are computed as four, the first once more: one chain of additions has too long a latency.
        let vectors = if end - strip > 2 { most } else { most.min(end - strip) };
        let first = strip.min(STRIPS - vectors);
        // SAFETY: the strips lie inside the chunk.
        unsafe {
            with_shape!(product, vectors, score_strips::<TYPE>(product, first));
        }
        strip = first + vectors;
    }
}

/// R rows of scores of V strips from `first`; fetches the keys of the next chunk.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn score_strips<const R: usize, const V: usize, const TYPE: u8>(
    product: &PageProduct,
    first: usize,
) {
    let key_bytes = product.key_stride * product.dtype.size();
    // SAFETY: R rows of queries and scores; the strips are inside their blocks.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        for d in 0..product.head_dim {
            // Two channels of a 16-position block are one cache line: they share its fetching.
            let next = &product.next.keys;
            let (half, offset) = (d % 2 * 2, d * key_bytes);
            prefetch_line(next[half].wrapping_add(offset));
            prefetch_line(next[half + 1].wrapping_add(offset));
            if key_bytes >= CACHE_LINE {
                prefetch_line(next[2 - half].wrapping_add(offset));
                prefetch_line(next[3 - half].wrapping_add(offset));
            }
            let mut keys = [_mm512_setzero_ps(); V];
            for v in 0..V {
                keys[v] = load::<TYPE>(product.strips.keys[first + v], d * product.key_stride);
            }
            for r in 0..R {
                let query = _mm512_set1_ps(*product.queries.add(r * product.head_dim + d));
                for v in 0..V {
                    sums[r][v] = _mm512_fmadd_ps(query, keys[v], sums[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                _mm512_storeu_ps(product.scores.add(r * CHUNK + (first + v) * STRIP), sums[r][v]);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn weigh_from<const TYPE: u8>(product: &PageProduct) {
    let most = most_vectors(product.num_rows);
    let mut col = 0;
    while col < product.head_dim {
        let left = (product.head_dim - col) / STRIP;
        let vectors = if left >= most { most } else { 1 << left.ilog2() };
        // SAFETY: the columns lie inside `head_dim`.
        unsafe { with_shape!(product, vectors, weigh_columns::<TYPE>(product, col)) };
        col += vectors * STRIP;
    }
}

/// R rows of weighted values, V vectors of columns from `col`; fetches the same columns of the next chunk.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn weigh_columns<const R: usize, const V: usize, const TYPE: u8>(
    product: &PageProduct,
    col: usize,
) {
    let (head_dim, size) = (product.head_dim, product.dtype.size());
    // SAFETY: R rows of weights, sums and factors; every position in `seen` is a row of its strip.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        for r in 0..R {
            let rescale = _mm512_set1_ps(*product.rescale.add(r));
            for v in 0..V {
                let old = product.weighted.add(r * head_dim + col + v * STRIP);
                sums[r][v] = _mm512_mul_ps(_mm512_loadu_ps(old), rescale);
            }
        }
        for strip in product.seen.start / STRIP..product.seen.end.div_ceil(STRIP) {
            let base = strip * STRIP;
            let (from, to) = (product.seen.start.max(base), product.seen.end.min(base + STRIP));
            for position in from..to {
                let index = (position - base) * head_dim + col;
                let next = product.next.values[strip].wrapping_add(index * size);
                for offset in (0..V * STRIP * size).step_by(CACHE_LINE) {
                    prefetch_line(next.wrapping_add(offset));
                }
                let mut values = [_mm512_setzero_ps(); V];
                for v in 0..V {
                    values[v] = load::<TYPE>(product.strips.values[strip], index + v * STRIP);
                }
                for r in 0..R {
                    let weight = _mm512_set1_ps(*product.scores.add(r * CHUNK + position));
                    for v in 0..V {
                        sums[r][v] = _mm512_fmadd_ps(weight, values[v], sums[r][v]);
                    }
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                let out = product.weighted.add(r * head_dim + col + v * STRIP);
                _mm512_storeu_ps(out, sums[r][v]);
            }
        }
    }
}
