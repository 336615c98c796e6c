//! `sigmoid_gate` on the CPU: a task has some rows.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use crate::cpu::math::{exp, per_simd_level};
use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

/// Rows of one task: some microseconds of work.
const ROWS_PER_TASK: usize = 4;

pub(super) fn sigmoid_gate(cpu: &CpuDevice, x: &ViewMut, gate: View) {
    cpu.pool.run(x.rows().div_ceil(ROWS_PER_TASK), &|task| {
        let first = task * ROWS_PER_TASK;
        for row in first..x.rows().min(first + ROWS_PER_TASK) {
            // SAFETY: each task writes rows of its own.
            gate_row(cpu.simd, unsafe { x.row_f32_shared(row) }, gate.row_f32(row));
        }
    });
}

per_simd_level! {
    fn gate_row(x: &mut [f32], gate: &[f32]) = gate_row_body
}

#[inline(always)]
fn gate_row_body<const FMA: bool>(x: &mut [f32], gate: &[f32]) {
    for (x, &gate) in x.iter_mut().zip(gate) {
        *x /= 1.0 + exp::<FMA>(-gate);
    }
}
