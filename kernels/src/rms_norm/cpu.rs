//! `rms_norm` on the CPU: whole rows to a task, a fixed order of additions.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use super::AddNorm;
use crate::cpu::SimdLevel;
use crate::cpu::math::{inverse_root_mean_square, per_simd_level};
use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

pub(super) fn rms_norm(cpu: &CpuDevice, out: ViewMut, x: View, weight: &[f32], eps: f32) {
    cpu.pool.run_ranges(x.rows(), smallest_task(x.cols()), &|rows| {
        for row in rows {
            // SAFETY: each task writes its own rows.
            let out = unsafe { out.row_f32_shared(row) };
            normalise(cpu.simd, out, x.row_f32(row), weight, eps);
        }
    });
}

pub(super) fn add_rms_norm(
    cpu: &CpuDevice,
    out: ViewMut,
    residual: ViewMut,
    x: View,
    weight: &[f32],
    eps: f32,
) {
    cpu.pool.run_ranges(x.rows(), smallest_task(x.cols()), &|rows| {
        for row in rows {
            // SAFETY: each task writes its own rows of either matrix.
            let (out, residual) =
                unsafe { (out.row_f32_shared(row), residual.row_f32_shared(row)) };
            add_normalise(cpu.simd, out, residual, x.row_f32(row), weight, eps);
        }
    });
}

impl AddNorm<'_> {
    /// One row of `add_rms_norm`.
    ///
    /// # Safety
    /// Nobody else uses this row of `out` and `residual` at the same time.
    pub(crate) unsafe fn make_row(&self, simd: SimdLevel, row: usize) {
        // SAFETY: the caller's promise.
        let (out, residual) =
            unsafe { (self.out.row_f32_shared(row), self.residual.row_f32_shared(row)) };
        add_normalise(simd, out, residual, self.x.row_f32(row), self.weight.f32(), self.eps);
    }
}

fn add_normalise(
    simd: SimdLevel,
    out: &mut [f32],
    residual: &mut [f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
) {
    residual.iter_mut().zip(x).for_each(|(r, &x)| *r += x);
    normalise(simd, out, residual, weight, eps);
}

/// Rows that are some microseconds of work.
fn smallest_task(cols: usize) -> usize {
    (1 << 14) / cols.max(1)
}

per_simd_level! {
    fn normalise(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) = normalise_body
}

#[inline(always)]
fn normalise_body<const FMA: bool>(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    let scale = inverse_root_mean_square(x, eps);
    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}
