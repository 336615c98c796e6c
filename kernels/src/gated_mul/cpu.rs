//! `gated_mul` on the CPU: a task has some pieces of rows; elements do not depend on each other.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use super::{Activation, Gated};
use crate::cpu::SimdLevel;
use crate::cpu::math::{exp, mul_add, per_simd_level};
use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

/// Columns of a piece, so that one row of a wide layer keeps several threads busy.
const PIECE_COLS: usize = 2048;

/// Pieces that are some microseconds of work.
const SMALLEST_TASK: usize = 4;

pub(super) fn gated_mul(cpu: &CpuDevice, out: &ViewMut, gate_up: View, activation: Activation) {
    let cols = out.cols();
    let pieces_per_row = cols.div_ceil(PIECE_COLS);
    cpu.pool.run_ranges(out.rows() * pieces_per_row, SMALLEST_TASK, &|pieces| {
        for piece in pieces {
            let (row, part) = (piece / pieces_per_row, piece % pieces_per_row);
            let range = part * PIECE_COLS..cols.min((part + 1) * PIECE_COLS);
            let (gate, up) = gate_up.row_f32(row).split_at(cols);
            // SAFETY: each task writes its own columns of its rows.
            let out = unsafe { out.columns_f32_shared(row, range.clone()) };
            activate(cpu.simd, activation, out, &gate[range.clone()], &up[range]);
        }
    });
}

impl Gated<'_> {
    /// One row of `gated_mul`.
    ///
    /// # Safety
    /// Nobody else uses this row of `out` at the same time.
    pub(crate) unsafe fn make_row(&self, simd: SimdLevel, row: usize) {
        // SAFETY: the caller's promise.
        let out = unsafe { self.out.row_f32_shared(row) };
        let (gate, up) = self.gate_up.row_f32(row).split_at(out.len());
        activate(simd, self.activation, out, gate, up);
    }
}

/// `out = activation(gate) · up`, element by element.
fn activate(simd: SimdLevel, activation: Activation, out: &mut [f32], gate: &[f32], up: &[f32]) {
    match activation {
        Activation::Silu => silu_mul(simd, out, gate, up),
        Activation::GeluTanh => gelu_tanh_mul(simd, out, gate, up),
        Activation::ClampedSwiglu { alpha, limit } => {
            clamped_swiglu(simd, out, gate, up, alpha, limit);
        }
    }
}

per_simd_level! {
    fn silu_mul(out: &mut [f32], gate: &[f32], up: &[f32]) = silu_mul_body
}

#[inline(always)]
fn silu_mul_body<const FMA: bool>(out: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp::<FMA>(-gate)) * up;
    }
}

per_simd_level! {
    fn gelu_tanh_mul(out: &mut [f32], gate: &[f32], up: &[f32]) = gelu_tanh_mul_body
}

/// As `(1 + tanh y) / 2 = 1 / (1 + e⁻²ʸ)`, which does not cancel for negative gates.
#[inline(always)]
fn gelu_tanh_mul_body<const FMA: bool>(out: &mut [f32], gate: &[f32], up: &[f32]) {
    const MINUS_TWO_SQRT_2_OVER_PI: f32 = -1.595_769;
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        let cubic = mul_add::<FMA>(0.044_715 * gate * gate, gate, gate);
        *out = gate / (1.0 + exp::<FMA>(MINUS_TWO_SQRT_2_OVER_PI * cubic)) * up;
    }
}

per_simd_level! {
    fn clamped_swiglu(out: &mut [f32], gate: &[f32], up: &[f32], alpha: f32, limit: f32) =
        clamped_swiglu_body
}

/// Comparisons and not `min`: a number that is none must stay so.
#[inline(always)]
fn clamped_swiglu_body<const FMA: bool>(
    out: &mut [f32],
    gate: &[f32],
    up: &[f32],
    alpha: f32,
    limit: f32,
) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        let gate = if gate > limit { limit } else { gate };
        let up = if up > limit { limit } else { up };
        let up = if up < -limit { -limit } else { up };
        *out = gate / (1.0 + exp::<FMA>(-alpha * gate)) * (up + 1.0);
    }
}
