//! `rms_norm` on the CPU: one task a row, a fixed order of additions.

use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

/// Partial sums kept apart, so that the compiler can use vector registers. Part of the result's definition: it fixes
/// the order of additions on every machine.
const LANES: usize = 16;

pub(super) fn rms_norm(cpu: &CpuDevice, out: ViewMut, x: View, weight: &[f32], eps: f32) {
    cpu.pool.run(x.rows(), &|row| {
        // SAFETY: each task writes its own row.
        let out = unsafe { out.row_f32_shared(row) };
        normalise(out, x.row_f32(row), weight, eps);
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
    cpu.pool.run(x.rows(), &|row| {
        // SAFETY: each task writes its own row of either matrix.
        let (out, residual) = unsafe { (out.row_f32_shared(row), residual.row_f32_shared(row)) };
        residual.iter_mut().zip(x.row_f32(row)).for_each(|(r, &x)| *r += x);
        normalise(out, residual, weight, eps);
    });
}

fn normalise(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &v)| *lane += v * v);
    }
    lanes.iter_mut().zip(tail).for_each(|(lane, &v)| *lane += v * v);
    lanes.iter().sum()
}
