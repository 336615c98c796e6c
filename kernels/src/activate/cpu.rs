//! `activate` on the CPU: a task has some pieces of rows; elements do not depend on each other.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use crate::cpu::SimdLevel;
use crate::cpu::math::{exp, per_simd_level};
use crate::device::CpuDevice;
use crate::gated_mul::{Activation, gelu, gelu_tanh};
use crate::tensor::{View, ViewMut};

/// Columns of a piece, so that one row of a wide layer keeps several threads busy.
const PIECE_COLS: usize = 2048;

/// Pieces that are some microseconds of work.
const SMALLEST_TASK: usize = 4;

pub(super) fn activate(cpu: &CpuDevice, out: &ViewMut, x: View, activation: Activation) {
    let cols = out.cols();
    let pieces_per_row = cols.div_ceil(PIECE_COLS);
    cpu.pool.run_ranges(out.rows() * pieces_per_row, SMALLEST_TASK, &|pieces| {
        for piece in pieces {
            let (row, part) = (piece / pieces_per_row, piece % pieces_per_row);
            let range = part * PIECE_COLS..cols.min((part + 1) * PIECE_COLS);
            // SAFETY: each task writes its own columns of its rows.
            let out = unsafe { out.columns_f32_shared(row, range.clone()) };
            activate_piece(cpu.simd, activation, out, &x.row_f32(row)[range]);
        }
    });
}

fn activate_piece(simd: SimdLevel, activation: Activation, out: &mut [f32], x: &[f32]) {
    match activation {
        Activation::Silu => silu_of(simd, out, x),
        Activation::Gelu => gelu_of(simd, out, x),
        Activation::GeluTanh => gelu_tanh_of(simd, out, x),
        Activation::ClampedSwiglu { .. } => unreachable!("the op asserts that there is no gate"),
    }
}

per_simd_level! {
    fn silu_of(out: &mut [f32], x: &[f32]) = silu_body
}

#[inline(always)]
fn silu_body<const FMA: bool>(out: &mut [f32], x: &[f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = x / (1.0 + exp::<FMA>(-x));
    }
}

per_simd_level! {
    fn gelu_of(out: &mut [f32], x: &[f32]) = gelu_body
}

#[inline(always)]
fn gelu_body<const FMA: bool>(out: &mut [f32], x: &[f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = gelu::<FMA>(x);
    }
}

per_simd_level! {
    fn gelu_tanh_of(out: &mut [f32], x: &[f32]) = gelu_tanh_body
}

#[inline(always)]
fn gelu_tanh_body<const FMA: bool>(out: &mut [f32], x: &[f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = gelu_tanh::<FMA>(x);
    }
}
