//! The inner loops of `attention` with AVX2, FMA and F16C: blocks of 6 rows by 16 columns fill the 16 registers.
#![allow(clippy::wildcard_imports, reason = "intrinsics say where they come from")]
#![allow(clippy::cast_ptr_alignment, reason = "page rows are aligned to their elements")]

use std::arch::x86_64::*;

use super::kernels::{BLOCK_ROWS, PageMatrix, Product, STRIP};
use super::portable::element;
use crate::tensor::DType;

const WIDTH: usize = 8;
const VECTORS: usize = STRIP / WIDTH;

/// See `kernels::multiply`.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn multiply(product: &Product) {
    debug_assert!(product.num_rows <= BLOCK_ROWS);
    for col in (0..product.num_cols).step_by(STRIP) {
        // SAFETY: the block lies inside the matrices.
        unsafe {
            match product.num_rows {
                0 => {}
                1 => multiply_block::<1>(product, col),
                2 => multiply_block::<2>(product, col),
                3 => multiply_block::<3>(product, col),
                4 => multiply_block::<4>(product, col),
                5 => multiply_block::<5>(product, col),
                _ => multiply_block::<6>(product, col),
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_block<const R: usize>(product: &Product, col: usize) {
    // SAFETY: R rows and STRIP columns from `col` are inside the matrices.
    unsafe {
        let a = product.a;
        let b = product.b.add(col);
        let c = product.c.add(col);
        let mut sums = [[_mm256_setzero_ps(); VECTORS]; R];
        if !product.rescale.is_null() {
            for r in 0..R {
                let rescale = _mm256_set1_ps(*product.rescale.add(r));
                for v in 0..VECTORS {
                    let old = _mm256_loadu_ps(c.add(r * product.c_stride + v * WIDTH));
                    sums[r][v] = _mm256_mul_ps(old, rescale);
                }
            }
        }
        for k in 0..product.depth {
            let b = b.add(k * product.b_stride);
            let columns = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(WIDTH))];
            for r in 0..R {
                let factor = _mm256_set1_ps(*a.add(r * product.a_stride + k));
                for v in 0..VECTORS {
                    sums[r][v] = _mm256_fmadd_ps(factor, columns[v], sums[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..VECTORS {
                _mm256_storeu_ps(c.add(r * product.c_stride + v * WIDTH), sums[r][v]);
            }
        }
    }
}

/// See `kernels::widen`.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn widen(page: &PageMatrix, out: *mut f32, out_stride: usize) {
    let full = page.cols - page.cols % WIDTH;
    for row in 0..page.rows {
        let start = row * page.stride;
        // SAFETY: inside the page and inside its row of `out`.
        unsafe {
            let out = out.add(row * out_stride);
            for col in (0..full).step_by(WIDTH) {
                let index = start + col;
                let halves = || _mm_loadu_si128(page.pointer.cast::<u16>().add(index).cast());
                let value = match page.dtype {
                    DType::F16 => _mm256_cvtph_ps(halves()),
                    DType::BF16 => {
                        let words = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves()));
                        _mm256_castsi256_ps(words)
                    }
                    _ => _mm256_loadu_ps(page.pointer.cast::<f32>().add(index)),
                };
                _mm256_storeu_ps(out.add(col), value);
            }
            for col in full..page.cols {
                *out.add(col) = element(page.pointer, start + col, page.dtype);
            }
        }
    }
}
