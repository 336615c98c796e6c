//! `layer_norm` on the CPU: whole rows to a task, a fixed order of additions.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use super::{Kept, LayerNorm};
use crate::cpu::SimdLevel;
use crate::cpu::math::{inverse_root_mean_square, mul_add, per_simd_level, sum};
use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

pub(super) fn layer_norm(
    cpu: &CpuDevice,
    (out, residual): (&ViewMut, &ViewMut),
    x: Option<View>,
    norm: LayerNorm,
    kept: Kept,
) {
    cpu.pool.run_ranges(out.rows(), smallest_task(out.cols()), &|rows| {
        for row in rows {
            // SAFETY: each task writes its own rows of either matrix.
            let (out, residual) =
                unsafe { (out.row_f32_shared(row), residual.row_f32_shared(row)) };
            if let Some(x) = &x {
                residual.iter_mut().zip(x.row_f32(row)).for_each(|(r, &x)| *r += x);
            }
            out.copy_from_slice(residual);
            normalise_row(cpu.simd, out, norm);
            if kept == Kept::Norm {
                residual.copy_from_slice(out);
            }
        }
    });
}

/// Rows that are some microseconds of work.
fn smallest_task(cols: usize) -> usize {
    (1 << 14) / cols.max(1)
}

fn normalise_row(simd: SimdLevel, row: &mut [f32], norm: LayerNorm) {
    centre(simd, row);
    match norm.bias {
        Some(bias) => scale_and_shift(simd, row, norm.weight.f32(), bias.f32(), norm.eps),
        None => scale(simd, row, norm.weight.f32(), norm.eps),
    }
}

per_simd_level! {
    /// Takes the mean away.
    fn centre(row: &mut [f32]) = centre_body
}

#[inline(always)]
fn centre_body<const FMA: bool>(row: &mut [f32]) {
    let mean = sum(row) / row.len() as f32;
    row.iter_mut().for_each(|x| *x -= mean);
}

per_simd_level! {
    fn scale(row: &mut [f32], weight: &[f32], eps: f32) = scale_body
}

#[inline(always)]
fn scale_body<const FMA: bool>(row: &mut [f32], weight: &[f32], eps: f32) {
    let factor = inverse_root_mean_square(row, eps);
    for (x, &weight) in row.iter_mut().zip(weight) {
        *x = *x * factor * weight;
    }
}

per_simd_level! {
    fn scale_and_shift(row: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) =
        scale_and_shift_body
}

#[inline(always)]
fn scale_and_shift_body<const FMA: bool>(row: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let factor = inverse_root_mean_square(row, eps);
    for ((x, &weight), &bias) in row.iter_mut().zip(weight).zip(bias) {
        *x = mul_add::<FMA>(*x * factor, weight, bias);
    }
}
