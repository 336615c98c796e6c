//! The inner loops of `attention` in plain Rust, for every machine.
#![allow(clippy::cast_ptr_alignment, reason = "page rows are aligned to their elements")]

use half::{bf16, f16};

use super::kernels::{CHUNK, PageRows, Product, Running, STRIP};
use crate::cpu::math::exp;
use crate::tensor::DType;

/// Sums kept apart in a row of scores, so that the compiler can use vector registers.
const LANES: usize = 4;

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

/// See `kernels::transpose`.
pub(super) unsafe fn transpose(rows: &PageRows, out: *mut f32) {
    for (index, &row) in rows.pointers.iter().enumerate() {
        for d in 0..rows.head_dim {
            // SAFETY: inside the row and inside `out`.
            unsafe { *out.add(d * CHUNK + index) = element(row, d, rows.dtype) };
        }
    }
}

/// See `kernels::widen`.
pub(super) unsafe fn widen(rows: &PageRows, out: *mut f32, stride: usize) {
    for (index, &row) in rows.pointers.iter().enumerate() {
        for d in 0..rows.head_dim {
            // SAFETY: inside the row and inside `out`.
            unsafe { *out.add(index * stride + d) = element(row, d, rows.dtype) };
        }
    }
}

/// Element `d` of a page row.
pub(super) unsafe fn element(row: *const u8, d: usize, dtype: DType) -> f32 {
    // SAFETY: the caller names an element of a readable, aligned row.
    unsafe {
        match dtype {
            DType::F16 => (*row.cast::<f16>().add(d)).to_f32(),
            DType::BF16 => (*row.cast::<bf16>().add(d)).to_f32(),
            _ => *row.cast::<f32>().add(d),
        }
    }
}

/// See `kernels::softmax`: one row, bit i of `visible` (never 0) for position i. Returns the rescaling factor.
pub(super) fn softmax_row(scores: &mut [f32; CHUNK], visible: u64, running: &mut Running) -> f32 {
    let mut maximum = running.maximum;
    for (index, score) in scores.iter_mut().enumerate() {
        *score = if visible >> index & 1 == 1 { *score } else { f32::NEG_INFINITY };
        maximum = if *score > maximum { *score } else { maximum };
    }
    if maximum == f32::NEG_INFINITY {
        scores.fill(0.0);
        return 1.0;
    }
    let mut lanes = [0.0; LANES];
    for scores in scores.chunks_exact_mut(LANES) {
        for (lane, score) in lanes.iter_mut().zip(scores) {
            *score = exp::<false>(*score - maximum);
            *lane += *score;
        }
    }
    let rescale = exp::<false>(running.maximum - maximum);
    let sum = running.sum * rescale + lanes.iter().sum::<f32>();
    *running = Running { maximum, sum };
    rescale
}
