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
        Activation::Gelu => gelu_mul(simd, out, gate, up),
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

#[inline(always)]
fn gelu_tanh_mul_body<const FMA: bool>(out: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = gelu_tanh::<FMA>(gate) * up;
    }
}

/// As `(1 + tanh y) / 2 = 1 / (1 + e⁻²ʸ)`, which does not cancel for negative x.
#[inline(always)]
pub(crate) fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    const MINUS_TWO_SQRT_2_OVER_PI: f32 = -1.595_769;
    let cubic = mul_add::<FMA>(0.044_715 * x * x, x, x);
    x / (1.0 + exp::<FMA>(MINUS_TWO_SQRT_2_OVER_PI * cubic))
}

per_simd_level! {
    fn gelu_mul(out: &mut [f32], gate: &[f32], up: &[f32]) = gelu_mul_body
}

#[inline(always)]
fn gelu_mul_body<const FMA: bool>(out: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = gelu::<FMA>(gate) * up;
    }
}

/// `erfc(z) = t · exp(−z² + p(t))` with t = 1 / (1 + z/2), within 1.2e-7 of itself (Press et al. 1992, 6.2): the
/// coefficients of p, highest power first.
const ERFC_COEFFICIENTS: [f32; 10] = [
    0.170_872_77,
    -0.822_152_23,
    1.488_515_9,
    -1.135_204,
    0.278_868_07,
    -0.186_288_06,
    0.096_784_18,
    0.374_091_96,
    1.000_023_7,
    -1.265_512_2,
];

/// x · Φ(x) with `Φ(−|x|) = erfc(|x|/√2) / 2`; above 0 that is taken from 1, so that small results keep their digits.
#[inline(always)]
pub(crate) fn gelu<const FMA: bool>(x: f32) -> f32 {
    const HALF_OF_INVERSE_SQRT_2: f32 = 0.353_553_4;
    let t = 1.0 / mul_add::<FMA>(HALF_OF_INVERSE_SQRT_2, x.abs(), 1.0);
    let mut exponent = ERFC_COEFFICIENTS[0];
    for &coefficient in &ERFC_COEFFICIENTS[1..] {
        exponent = mul_add::<FMA>(exponent, t, coefficient);
    }
    let tail = 0.5 * t * exp::<FMA>(mul_add::<FMA>(-0.5 * x, x, exponent));
    x * if x < 0.0 { tail } else { 1.0 - tail }
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
