//! The inner loops of `attention` with AVX-512: blocks of 6 rows by 64 columns fill the 32 registers.
#![allow(clippy::wildcard_imports, reason = "intrinsics say where they come from")]
#![allow(clippy::cast_ptr_alignment, reason = "page rows are aligned to their elements")]

use std::arch::x86_64::*;

use super::kernels::{CHUNK, PageRows, Product, Running, STRIP};
use crate::cpu::math;
use crate::tensor::DType;

const WIDTH: usize = 16;
const BLOCK_ROWS: usize = 6;
const BLOCK_VECTORS: usize = 4;

/// See `kernels::multiply`.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn multiply(product: &Product) {
    let mut col = 0;
    while col < product.num_cols {
        let vectors = ((product.num_cols - col) / WIDTH).min(BLOCK_VECTORS);
        // SAFETY: the caller's promise holds for each strip.
        unsafe {
            match vectors {
                4 => multiply_columns::<4>(product, col),
                3 => multiply_columns::<3>(product, col),
                2 => multiply_columns::<2>(product, col),
                _ => multiply_columns::<1>(product, col),
            }
        }
        col += vectors * WIDTH;
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn multiply_columns<const V: usize>(product: &Product, col: usize) {
    let mut row = 0;
    while row < product.num_rows {
        let rows = (product.num_rows - row).min(BLOCK_ROWS);
        // SAFETY: the block lies inside the matrices.
        unsafe {
            match rows {
                6 => multiply_block::<6, V>(product, row, col),
                5 => multiply_block::<5, V>(product, row, col),
                4 => multiply_block::<4, V>(product, row, col),
                3 => multiply_block::<3, V>(product, row, col),
                2 => multiply_block::<2, V>(product, row, col),
                _ => multiply_block::<1, V>(product, row, col),
            }
        }
        row += rows;
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn multiply_block<const R: usize, const V: usize>(
    product: &Product,
    row: usize,
    col: usize,
) {
    // SAFETY: R rows from `row` and V vectors of columns from `col` are inside the matrices.
    unsafe {
        let a = product.a.add(row * product.a_stride);
        let b = product.b.add(col);
        let c = product.c.add(row * product.c_stride + col);
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        if !product.rescale.is_null() {
            for r in 0..R {
                let rescale = _mm512_set1_ps(*product.rescale.add(row + r));
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

/// See `kernels::transpose`. 16-bit rows are moved as pairs, which halves the shuffles.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn transpose(rows: &PageRows, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows.dtype {
            DType::F16 => transpose_rows::<F16>(rows, out),
            DType::BF16 => transpose_rows::<BF16>(rows, out),
            _ => transpose_rows::<F32>(rows, out),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn transpose_rows<const TYPE: u8>(rows: &PageRows, out: *mut f32) {
    let num_words = rows.head_dim * rows.dtype.size() / 4;
    let rows_per_word = 4 / rows.dtype.size();
    for (strip, pointers) in rows.pointers.chunks_exact(STRIP).enumerate() {
        for start in (0..num_words).step_by(WIDTH) {
            let words = (num_words - start).min(WIDTH);
            let mask = ((1_u32 << words) - 1) as u16;
            let mut block = [_mm512_setzero_si512(); WIDTH];
            for i in 0..WIDTH {
                // SAFETY: the mask keeps the load inside the row.
                block[i] =
                    unsafe { _mm512_maskz_loadu_epi32(mask, pointers[i].cast::<i32>().add(start)) };
            }
            transpose_block(&mut block);
            for i in 0..WIDTH {
                if i < words {
                    // SAFETY: these rows of `out` belong to word `start + i`.
                    unsafe {
                        let out = out.add((start + i) * rows_per_word * CHUNK + strip * STRIP);
                        store_word::<TYPE>(block[i], out);
                    }
                }
            }
        }
    }
}

/// Stores a transposed word: one row of `out` for F32, two for a pair of 16-bit elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn store_word<const TYPE: u8>(word: __m512i, out: *mut f32) {
    let high_half = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
    let (first, second) = match TYPE {
        F16 => {
            let high = _mm512_srli_epi32::<16>(word);
            let first = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(word));
            (first, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(high)))
        }
        BF16 => {
            let high = _mm512_and_si512(word, high_half);
            (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(word)), _mm512_castsi512_ps(high))
        }
        _ => {
            // SAFETY: the caller owns this row of `out`.
            unsafe { _mm512_storeu_ps(out, _mm512_castsi512_ps(word)) };
            return;
        }
    };
    // SAFETY: the caller owns both rows of `out`.
    unsafe {
        _mm512_storeu_ps(out, first);
        _mm512_storeu_ps(out.add(CHUNK), second);
    }
}

/// 16 × 16 words: pairs, then quads inside each 128-bit lane, then lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_block(r: &mut [__m512i; WIDTH]) {
    let mut t = *r;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for i in [0, 4, 8, 12] {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for j in 0..4 {
        let even_low = _mm512_shuffle_i32x4::<0x88>(r[j], r[4 + j]);
        let odd_low = _mm512_shuffle_i32x4::<0xDD>(r[j], r[4 + j]);
        let even_high = _mm512_shuffle_i32x4::<0x88>(r[8 + j], r[12 + j]);
        let odd_high = _mm512_shuffle_i32x4::<0xDD>(r[8 + j], r[12 + j]);
        t[j] = _mm512_shuffle_i32x4::<0x88>(even_low, even_high);
        t[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high);
        t[8 + j] = _mm512_shuffle_i32x4::<0xDD>(even_low, even_high);
        t[12 + j] = _mm512_shuffle_i32x4::<0xDD>(odd_low, odd_high);
    }
    *r = t;
}

/// See `kernels::widen`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn widen(rows: &PageRows, out: *mut f32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows.dtype {
            DType::F16 => widen_rows::<F16>(rows, out, stride),
            DType::BF16 => widen_rows::<BF16>(rows, out, stride),
            _ => widen_rows::<F32>(rows, out, stride),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn widen_rows<const TYPE: u8>(rows: &PageRows, out: *mut f32, stride: usize) {
    let full = rows.head_dim - rows.head_dim % WIDTH;
    let tail_mask = ((1_u32 << (rows.head_dim - full)) - 1) as u16;
    for (index, &row) in rows.pointers.iter().enumerate() {
        // SAFETY: loads stay inside the row (the mask cuts the last one), stores inside the padded row of `out`.
        unsafe {
            let out = out.add(index * stride);
            for d in (0..full).step_by(WIDTH) {
                _mm512_storeu_ps(out.add(d), load_page::<TYPE>(row, d, u16::MAX));
            }
            if tail_mask != 0 {
                _mm512_storeu_ps(out.add(full), load_page::<TYPE>(row, full, tail_mask));
            }
        }
    }
}

/// Whether `multiply_pages` can do it: one block of rows, full blocks of columns.
pub(super) fn multiplies_pages(rows: &PageRows, product: &Product) -> bool {
    product.num_rows <= BLOCK_ROWS && rows.head_dim.is_multiple_of(BLOCK_VECTORS * WIDTH)
}

/// See `kernels::multiply_pages`; only where `multiplies_pages`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn multiply_pages(rows: &PageRows, product: &Product) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows.dtype {
            DType::F16 => multiply_pages_of::<F16>(rows, product),
            DType::BF16 => multiply_pages_of::<BF16>(rows, product),
            _ => multiply_pages_of::<F32>(rows, product),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn multiply_pages_of<const TYPE: u8>(rows: &PageRows, product: &Product) {
    for col in (0..rows.head_dim).step_by(BLOCK_VECTORS * WIDTH) {
        // SAFETY: the block lies inside the matrices.
        unsafe {
            match product.num_rows {
                6 => multiply_page_block::<6, TYPE>(rows, product, col),
                5 => multiply_page_block::<5, TYPE>(rows, product, col),
                4 => multiply_page_block::<4, TYPE>(rows, product, col),
                3 => multiply_page_block::<3, TYPE>(rows, product, col),
                2 => multiply_page_block::<2, TYPE>(rows, product, col),
                _ => multiply_page_block::<1, TYPE>(rows, product, col),
            }
        }
    }
}

/// R rows and `BLOCK_VECTORS` vectors of columns from `col`; the order of additions is that of `multiply_block`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn multiply_page_block<const R: usize, const TYPE: u8>(
    rows: &PageRows,
    product: &Product,
    col: usize,
) {
    // SAFETY: as in `multiply_block`; the columns are inside each page row.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); BLOCK_VECTORS]; R];
        for r in 0..R {
            let rescale = _mm512_set1_ps(*product.rescale.add(r));
            for v in 0..BLOCK_VECTORS {
                let old = product.c.add(r * product.c_stride + col + v * WIDTH);
                sums[r][v] = _mm512_mul_ps(_mm512_loadu_ps(old), rescale);
            }
        }
        for (k, &row) in rows.pointers.iter().enumerate() {
            let mut columns = [_mm512_setzero_ps(); BLOCK_VECTORS];
            for v in 0..BLOCK_VECTORS {
                columns[v] = load_page::<TYPE>(row, col + v * WIDTH, u16::MAX);
            }
            for r in 0..R {
                let factor = _mm512_set1_ps(*product.a.add(r * product.a_stride + k));
                for v in 0..BLOCK_VECTORS {
                    sums[r][v] = _mm512_fmadd_ps(factor, columns[v], sums[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..BLOCK_VECTORS {
                let out = product.c.add(r * product.c_stride + col + v * WIDTH);
                _mm512_storeu_ps(out, sums[r][v]);
            }
        }
    }
}

const F16: u8 = 0;
const BF16: u8 = 1;
const F32: u8 = 2;

/// Elements `d..d + WIDTH` of a page row under `mask`, 0 elsewhere.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn load_page<const TYPE: u8>(row: *const u8, d: usize, mask: u16) -> __m512 {
    // SAFETY: the caller keeps the masked elements inside the row.
    unsafe {
        match TYPE {
            F16 => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, row.cast::<i16>().add(d))),
            BF16 => {
                let bits = _mm256_maskz_loadu_epi16(mask, row.cast::<i16>().add(d));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
            }
            _ => _mm512_maskz_loadu_ps(mask, row.cast::<f32>().add(d)),
        }
    }
}

/// See `kernels::softmax`: one row, bit i of `visible` (never 0) for position i. Returns the rescaling factor.
#[target_feature(enable = "avx512f,avx512dq,fma")]
pub(super) fn softmax_row(scores: &mut [f32; CHUNK], visible: u64, running: &mut Running) -> f32 {
    const VECTORS_PER_ROW: usize = CHUNK / WIDTH;
    let mut row = [_mm512_set1_ps(f32::NEG_INFINITY); VECTORS_PER_ROW];
    for (index, value) in row.iter_mut().enumerate() {
        let mask = (visible >> (index * WIDTH)) as u16;
        // SAFETY: WIDTH scores of the row.
        *value = unsafe {
            _mm512_mask_loadu_ps(*value, mask, scores[index * WIDTH..][..WIDTH].as_ptr())
        };
    }
    let mut largest = row[0];
    for &value in &row[1..] {
        largest = _mm512_max_ps(largest, value);
    }
    let maximum = running.maximum.max(largest_lane(largest));
    if maximum == f32::NEG_INFINITY {
        scores.fill(0.0);
        return 1.0;
    }
    let mut sum = _mm512_setzero_ps();
    for (index, &value) in row.iter().enumerate() {
        let weight = exp(_mm512_sub_ps(value, _mm512_set1_ps(maximum)));
        sum = _mm512_add_ps(sum, weight);
        // SAFETY: WIDTH weights of the row.
        unsafe { _mm512_storeu_ps(scores[index * WIDTH..][..WIDTH].as_mut_ptr(), weight) };
    }
    let rescale = math::exp::<true>(running.maximum - maximum);
    *running = Running { maximum, sum: running.sum * rescale + sum_of_lanes(sum) };
    rescale
}

/// `math::exp` of arguments up to 0.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp(x: __m512) -> __m512 {
    let to_integer = _mm512_set1_ps(math::TO_INTEGER);
    let shifted = _mm512_fmadd_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E), to_integer);
    let n = _mm512_sub_ps(shifted, to_integer);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(math::LN_2_HIGH), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(math::LN_2_LOW), r);
    let mut polynomial = _mm512_set1_ps(math::EXP_COEFFICIENTS[0]);
    for &coefficient in &math::EXP_COEFFICIENTS[1..] {
        polynomial = _mm512_fmadd_ps(polynomial, r, _mm512_set1_ps(coefficient));
    }
    let result = _mm512_fmadd_ps(polynomial, _mm512_mul_ps(r, r), r);
    let result = _mm512_add_ps(result, _mm512_set1_ps(1.0));
    let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
    let power = _mm512_add_epi32(exponent, _mm512_set1_epi32(0x3F80_0000));
    let is_normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(math::EXP_LOWEST));
    _mm512_maskz_mul_ps(is_normal, result, _mm512_castsi512_ps(power))
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn sum_of_lanes(x: __m512) -> f32 {
    let x = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn largest_lane(x: __m512) -> f32 {
    let x = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
    let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
}
