//! `silu_mul` on the CPU: one task for a piece of a row; elements do not depend on each other.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use crate::cpu::math::{exp, per_simd_level};
use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

/// Columns of one task, so that one row of a wide layer keeps several threads busy.
const TASK_COLS: usize = 2048;

pub(super) fn silu_mul(cpu: &CpuDevice, out: &ViewMut, gate_up: View) {
    let cols = out.cols();
    let tasks_per_row = cols.div_ceil(TASK_COLS);
    cpu.pool.run(out.rows() * tasks_per_row, &|task| {
        let (row, part) = (task / tasks_per_row, task % tasks_per_row);
        let range = part * TASK_COLS..cols.min((part + 1) * TASK_COLS);
        let (gate, up) = gate_up.row_f32(row).split_at(cols);
        // SAFETY: each task writes its own columns of its row.
        let out = unsafe { out.columns_f32_shared(row, range.clone()) };
        row_part(cpu.simd, out, &gate[range.clone()], &up[range]);
    });
}

per_simd_level! {
    fn row_part(out: &mut [f32], gate: &[f32], up: &[f32]) = row_part_body
}

#[inline(always)]
fn row_part_body<const FMA: bool>(out: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp::<FMA>(-gate)) * up;
    }
}
