//! The inner loops of `attention` with AVX2, FMA and F16C: blocks of 6 rows by 16 columns fill the 16 registers.
#![allow(clippy::wildcard_imports, reason = "intrinsics say where they come from")]
#![allow(clippy::cast_ptr_alignment, reason = "page rows are aligned to their elements")]

use std::arch::x86_64::*;

use super::kernels::{CHUNK, PageRows, Product, Running, STRIP};
use super::portable::element;
use crate::cpu::math;
use crate::tensor::DType;

const WIDTH: usize = 8;
const BLOCK_ROWS: usize = 6;
const VECTORS: usize = STRIP / WIDTH;

/// See `kernels::multiply`.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn multiply(product: &Product) {
    for col in (0..product.num_cols).step_by(STRIP) {
        let mut row = 0;
        while row < product.num_rows {
            let rows = (product.num_rows - row).min(BLOCK_ROWS);
            // SAFETY: the block lies inside the matrices.
            unsafe {
                match rows {
                    6 => multiply_block::<6>(product, row, col),
                    5 => multiply_block::<5>(product, row, col),
                    4 => multiply_block::<4>(product, row, col),
                    3 => multiply_block::<3>(product, row, col),
                    2 => multiply_block::<2>(product, row, col),
                    _ => multiply_block::<1>(product, row, col),
                }
            }
            row += rows;
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_block<const R: usize>(product: &Product, row: usize, col: usize) {
    // SAFETY: R rows from `row` and STRIP columns from `col` are inside the matrices.
    unsafe {
        let a = product.a.add(row * product.a_stride);
        let b = product.b.add(col);
        let c = product.c.add(row * product.c_stride + col);
        let mut sums = [[_mm256_setzero_ps(); VECTORS]; R];
        if !product.rescale.is_null() {
            for r in 0..R {
                let rescale = _mm256_set1_ps(*product.rescale.add(row + r));
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

/// See `kernels::transpose`. 16-bit rows are moved as pairs, which halves the shuffles.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn transpose(rows: &PageRows, out: *mut f32) {
    let elements_per_word = 4 / rows.dtype.size();
    let num_words = rows.head_dim / elements_per_word;
    let full_words = num_words - num_words % WIDTH;
    for (group, pointers) in rows.pointers.chunks_exact(WIDTH).enumerate() {
        // SAFETY: columns of this group of `out`; every word read lies inside its row.
        unsafe {
            let out = out.add(group * WIDTH);
            for start in (0..full_words).step_by(WIDTH) {
                let mut block = [_mm256_setzero_si256(); WIDTH];
                for (row, &pointer) in block.iter_mut().zip(pointers) {
                    *row = _mm256_loadu_si256(pointer.cast::<i32>().add(start).cast());
                }
                transpose_block(&mut block);
                for (word, &value) in block.iter().enumerate() {
                    let out = out.add((start + word) * elements_per_word * CHUNK);
                    store_word(value, rows.dtype, out);
                }
            }
            for d in full_words * elements_per_word..rows.head_dim {
                for (index, &pointer) in pointers.iter().enumerate() {
                    *out.add(d * CHUNK + index) = element(pointer, d, rows.dtype);
                }
            }
        }
    }
}

/// Stores one transposed word: one row of `out` for F32, two for a pair of 16-bit elements.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn store_word(word: __m256i, dtype: DType, out: *mut f32) {
    let (low, high) = match dtype {
        DType::F16 => {
            let low = _mm256_and_si256(word, _mm256_set1_epi32(0xFFFF));
            let high = _mm256_srli_epi32::<16>(word);
            (_mm256_cvtph_ps(narrow(low)), _mm256_cvtph_ps(narrow(high)))
        }
        DType::BF16 => {
            let high = _mm256_and_si256(word, _mm256_set1_epi32(0xFFFF_0000_u32 as i32));
            (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(word)), _mm256_castsi256_ps(high))
        }
        _ => {
            // SAFETY: the caller owns this row.
            unsafe { _mm256_storeu_ps(out, _mm256_castsi256_ps(word)) };
            return;
        }
    };
    // SAFETY: the caller owns both rows.
    unsafe {
        _mm256_storeu_ps(out, low);
        _mm256_storeu_ps(out.add(CHUNK), high);
    }
}

/// Eight words below 2¹⁶ as eight 16-bit numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn narrow(words: __m256i) -> __m128i {
    _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words))
}

/// 8 × 8 words: pairs, then quads inside each 128-bit lane, then lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_block(r: &mut [__m256i; WIDTH]) {
    let mut t = *r;
    for i in 0..4 {
        t[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for i in [0, 4] {
        r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for j in 0..4 {
        t[j] = _mm256_permute2x128_si256::<0x20>(r[j], r[4 + j]);
        t[4 + j] = _mm256_permute2x128_si256::<0x31>(r[j], r[4 + j]);
    }
    *r = t;
}

/// See `kernels::widen`.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn widen(rows: &PageRows, out: *mut f32, stride: usize) {
    let full = rows.head_dim - rows.head_dim % WIDTH;
    for (index, &row) in rows.pointers.iter().enumerate() {
        // SAFETY: inside the row and inside its row of `out`.
        unsafe {
            let out = out.add(index * stride);
            for d in (0..full).step_by(WIDTH) {
                let value = match rows.dtype {
                    DType::F16 => _mm256_cvtph_ps(_mm_loadu_si128(row.cast::<u16>().add(d).cast())),
                    DType::BF16 => {
                        let bits = _mm_loadu_si128(row.cast::<u16>().add(d).cast());
                        let words = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits));
                        _mm256_castsi256_ps(words)
                    }
                    _ => _mm256_loadu_ps(row.cast::<f32>().add(d)),
                };
                _mm256_storeu_ps(out.add(d), value);
            }
            for d in full..rows.head_dim {
                *out.add(d) = element(row, d, rows.dtype);
            }
        }
    }
}

/// See `kernels::softmax`: one row, bit i of `visible` (never 0) for position i. Returns the rescaling factor.
#[target_feature(enable = "avx2,fma")]
pub(super) fn softmax_row(scores: &mut [f32; CHUNK], visible: u64, running: &mut Running) -> f32 {
    const VECTORS_PER_ROW: usize = CHUNK / WIDTH;
    let mut row = [_mm256_set1_ps(f32::NEG_INFINITY); VECTORS_PER_ROW];
    for (index, value) in row.iter_mut().enumerate() {
        let bits = _mm256_set1_epi32((visible >> (index * WIDTH) & 0xFF) as i32);
        let lane_bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        let mask = _mm256_cmpeq_epi32(_mm256_and_si256(bits, lane_bits), lane_bits);
        // SAFETY: WIDTH scores of the row.
        let loaded = unsafe { _mm256_loadu_ps(scores[index * WIDTH..][..WIDTH].as_ptr()) };
        *value = _mm256_blendv_ps(*value, loaded, _mm256_castsi256_ps(mask));
    }
    let mut largest = row[0];
    for &value in &row[1..] {
        largest = _mm256_max_ps(largest, value);
    }
    let maximum = running.maximum.max(largest_lane(largest));
    if maximum == f32::NEG_INFINITY {
        scores.fill(0.0);
        return 1.0;
    }
    let mut sum = _mm256_setzero_ps();
    for (index, &value) in row.iter().enumerate() {
        let weight = exp(_mm256_sub_ps(value, _mm256_set1_ps(maximum)));
        sum = _mm256_add_ps(sum, weight);
        // SAFETY: WIDTH weights of the row.
        unsafe { _mm256_storeu_ps(scores[index * WIDTH..][..WIDTH].as_mut_ptr(), weight) };
    }
    let rescale = math::exp::<true>(running.maximum - maximum);
    *running = Running { maximum, sum: running.sum * rescale + sum_of_lanes(sum) };
    rescale
}

/// `math::exp` of arguments up to 0.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn exp(x: __m256) -> __m256 {
    let to_integer = _mm256_set1_ps(math::TO_INTEGER);
    let shifted = _mm256_fmadd_ps(x, _mm256_set1_ps(std::f32::consts::LOG2_E), to_integer);
    let n = _mm256_sub_ps(shifted, to_integer);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(math::LN_2_HIGH), x);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(math::LN_2_LOW), r);
    let mut polynomial = _mm256_set1_ps(math::EXP_COEFFICIENTS[0]);
    for &coefficient in &math::EXP_COEFFICIENTS[1..] {
        polynomial = _mm256_fmadd_ps(polynomial, r, _mm256_set1_ps(coefficient));
    }
    let result = _mm256_fmadd_ps(polynomial, _mm256_mul_ps(r, r), r);
    let result = _mm256_add_ps(result, _mm256_set1_ps(1.0));
    let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
    let power = _mm256_add_epi32(exponent, _mm256_set1_epi32(0x3F80_0000));
    let is_normal = _mm256_cmp_ps::<_CMP_NLT_UQ>(x, _mm256_set1_ps(math::EXP_LOWEST));
    _mm256_and_ps(is_normal, _mm256_mul_ps(result, _mm256_castsi256_ps(power)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum_of_lanes(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn largest_lane(x: __m256) -> f32 {
    let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
}
