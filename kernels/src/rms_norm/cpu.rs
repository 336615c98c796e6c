//! `rms_norm` on the CPU: whole rows to a task, a fixed order of additions.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use crate::cpu::math::per_simd_level;
use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

/// Partial sums kept apart, so that the compiler can use vector registers. Part of the result's definition: it fixes
/// the order of additions on every machine.
const LANES: usize = 16;

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
            residual.iter_mut().zip(x.row_f32(row)).for_each(|(r, &x)| *r += x);
            normalise(cpu.simd, out, residual, weight, eps);
        }
    });
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
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    // No closures: they would be compiled for the plain machine and called.
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += chunk[i] * chunk[i];
        }
    }
    for i in 0..tail.len() {
        lanes[i] += tail[i] * tail[i];
    }
    lanes.iter().sum()
}
