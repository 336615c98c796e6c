//! The inner loops of `attention` with AVX-512: blocks of 6 rows by 64 columns fill the 32 registers.
#![allow(clippy::wildcard_imports, reason = "intrinsics say where they come from")]
#![allow(clippy::cast_ptr_alignment, reason = "page rows are aligned to their elements")]

use std::arch::x86_64::*;

use super::kernels::{BLOCK_ROWS, CHUNK, ChunkScores, PageMatrix, Product, STRIP, STRIPS};
use crate::cpu::math;
use crate::tensor::DType;

const WIDTH: usize = STRIP;
const BLOCK_VECTORS: usize = 4;

/// See `kernels::multiply`.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn multiply(product: &Product) {
    debug_assert!(product.num_rows <= BLOCK_ROWS);
    // SAFETY: the caller's promise.
    unsafe {
        match product.num_rows {
            0 => {}
            1 => multiply_rows::<1>(product),
            2 => multiply_rows::<2>(product),
            3 => multiply_rows::<3>(product),
            4 => multiply_rows::<4>(product),
            5 => multiply_rows::<5>(product),
            _ => multiply_rows::<6>(product),
        }
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn multiply_rows<const R: usize>(product: &Product) {
    let mut col = 0;
    while col < product.num_cols {
        let vectors = ((product.num_cols - col) / WIDTH).min(BLOCK_VECTORS);
        // SAFETY: the block lies inside the matrices.
        unsafe {
            match vectors {
                4 => multiply_block::<R, 4>(product, col),
                3 => multiply_block::<R, 3>(product, col),
                2 => multiply_block::<R, 2>(product, col),
                _ => multiply_block::<R, 1>(product, col),
            }
        }
        col += vectors * WIDTH;
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn multiply_block<const R: usize, const V: usize>(product: &Product, col: usize) {
    // SAFETY: R rows and V vectors of columns from `col` are inside the matrices.
    unsafe {
        let a = product.a;
        let b = product.b.add(col);
        let c = product.c.add(col);
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        if !product.rescale.is_null() {
            for r in 0..R {
                let rescale = _mm512_set1_ps(*product.rescale.add(r));
                for v in 0..V {
                    let old = _mm512_loadu_ps(c.add(r * product.c_stride + v * WIDTH));
                    sums[r][v] = _mm512_mul_ps(old, rescale);
                }
            }
        }
        for k in 0..product.depth {
            let mut columns = [_mm512_setzero_ps(); V];
            for v in 0..V {
                columns[v] = _mm512_loadu_ps(b.add(k * product.b_stride + v * WIDTH));
            }
            for r in 0..R {
                let factor = _mm512_set1_ps(*a.add(r * product.a_stride + k));
                for v in 0..V {
                    sums[r][v] = _mm512_fmadd_ps(factor, columns[v], sums[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                _mm512_storeu_ps(c.add(r * product.c_stride + v * WIDTH), sums[r][v]);
            }
        }
    }
}

/// See `kernels::widen`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn widen(page: &PageMatrix, out: *mut f32, out_stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match page.dtype {
            DType::F16 => widen_from::<F16>(page, out, out_stride),
            DType::BF16 => widen_from::<BF16>(page, out, out_stride),
            _ => widen_from::<F32>(page, out, out_stride),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn widen_from<const TYPE: u8>(page: &PageMatrix, out: *mut f32, out_stride: usize) {
    let full = page.cols - page.cols % WIDTH;
    let tail_mask = ((1_u32 << (page.cols - full)) - 1) as u16;
    for row in 0..page.rows {
        let start = row * page.stride;
        // SAFETY: masks keep the last load and the last store inside their rows.
        unsafe {
            let out = out.add(row * out_stride);
            for col in (0..full).step_by(WIDTH) {
                _mm512_storeu_ps(out.add(col), load::<TYPE>(page.pointer, start + col));
            }
            if tail_mask != 0 {
                let value = load_masked::<TYPE>(page.pointer, start + full, tail_mask);
                _mm512_mask_storeu_ps(out.add(full), tail_mask, value);
            }
        }
    }
}

pub(super) const F16: u8 = 0;
pub(super) const BF16: u8 = 1;
pub(super) const F32: u8 = 2;

/// Elements `index..index + WIDTH` of a page.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn load<const TYPE: u8>(page: *const u8, index: usize) -> __m512 {
    // SAFETY: the caller keeps the elements inside the page.
    unsafe {
        match TYPE {
            F16 => _mm512_cvtph_ps(_mm256_loadu_si256(page.cast::<i16>().add(index).cast())),
            BF16 => {
                let bits = _mm256_loadu_si256(page.cast::<i16>().add(index).cast());
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
            }
            _ => _mm512_loadu_ps(page.cast::<f32>().add(index)),
        }
    }
}

/// As `load`, under `mask`; 0 elsewhere.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn load_masked<const TYPE: u8>(page: *const u8, index: usize, mask: u16) -> __m512 {
    // SAFETY: the caller keeps the masked elements inside the page.
    unsafe {
        match TYPE {
            F16 => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, page.cast::<i16>().add(index))),
            BF16 => {
                let bits = _mm256_maskz_loadu_epi16(mask, page.cast::<i16>().add(index));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
            }
            _ => _mm512_maskz_loadu_ps(mask, page.cast::<f32>().add(index)),
        }
    }
}

/// See `kernels::softmax`. Three passes, so that no row waits for another's chain of operations.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) unsafe fn softmax(chunk: &mut ChunkScores) {
    // SAFETY: the caller has checked the lengths.
    unsafe {
        if chunk.is_full() {
            softmax_of::<true>(chunk);
        } else {
            softmax_of::<false>(chunk);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn softmax_of<const FULL: bool>(chunk: &mut ChunkScores) {
    let rows = chunk.visible.len();
    let (scores, maxima) = (chunk.scores.as_mut_ptr(), chunk.maximum.as_mut_ptr());
    let rescales = chunk.rescale.as_mut_ptr();
    // SAFETY: rows of `scores` and `sums`; the other arrays are padded to whole vectors.
    unsafe {
        for row in 0..rows {
            let mask = if FULL { u64::MAX } else { chunk.mask(row) };
            let x = load_scores::<FULL>(scores.add(row * CHUNK), mask);
            let largest = _mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3]));
            *rescales.add(row) = largest_lane(largest);
        }
        for row in (0..rows).step_by(WIDTH) {
            let old = _mm512_loadu_ps(maxima.add(row));
            let maximum = _mm512_max_ps(old, _mm512_loadu_ps(rescales.add(row)));
            let rescale = exp2(_mm512_sub_ps(old, zero_if_lowest(maximum)));
            _mm512_storeu_ps(maxima.add(row), maximum);
            _mm512_storeu_ps(rescales.add(row), rescale);
        }
        for row in 0..rows {
            let mask = if FULL { u64::MAX } else { chunk.mask(row) };
            let x = load_scores::<FULL>(scores.add(row * CHUNK), mask);
            let shift = zero_if_lowest(_mm512_set1_ps(*maxima.add(row)));
            let mut weights = [_mm512_setzero_ps(); STRIPS];
            for v in 0..STRIPS {
                weights[v] = exp2(_mm512_sub_ps(x[v], shift));
                _mm512_storeu_ps(scores.add(row * CHUNK + v * WIDTH), weights[v]);
            }
            let sums = chunk.sums[row].as_mut_ptr();
            let first = _mm512_add_ps(weights[0], weights[1]);
            let sum = _mm512_add_ps(first, _mm512_add_ps(weights[2], weights[3]));
            let rescale = _mm512_set1_ps(*rescales.add(row));
            _mm512_storeu_ps(sums, _mm512_fmadd_ps(_mm512_loadu_ps(sums), rescale, sum));
        }
    }
}

/// One row of scores, −∞ where `mask` has no bit.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_scores<const FULL: bool>(row: *const f32, mask: u64) -> [__m512; STRIPS] {
    let mut x = [_mm512_set1_ps(f32::NEG_INFINITY); STRIPS];
    for (strip, x) in x.iter_mut().enumerate() {
        // SAFETY: WIDTH scores of the row.
        let loaded = unsafe { _mm512_loadu_ps(row.add(strip * WIDTH)) };
        *x = match FULL {
            true => loaded,
            false => _mm512_mask_mov_ps(*x, (mask >> (strip * WIDTH)) as u16, loaded),
        };
    }
    x
}

/// −∞ becomes 0, so that −∞ may be subtracted from it.
#[inline]
#[target_feature(enable = "avx512f")]
fn zero_if_lowest(x: __m512) -> __m512 {
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(x, lowest), x)
}

/// `math::exp2` of arguments up to 0.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp2(x: __m512) -> __m512 {
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
    let r = _mm512_sub_ps(x, n);
    let mut polynomial = _mm512_set1_ps(math::EXP2_COEFFICIENTS[0]);
    for &coefficient in &math::EXP2_COEFFICIENTS[1..] {
        polynomial = _mm512_fmadd_ps(polynomial, r, _mm512_set1_ps(coefficient));
    }
    let is_normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(math::EXP2_LOWEST));
    _mm512_maskz_scalef_ps(is_normal, polynomial, n)
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn largest_lane(x: __m512) -> f32 {
    let x = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
    let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
}
