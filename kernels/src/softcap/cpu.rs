//! `softcap` on the CPU: one task for a piece of a row; elements do not depend on each other.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use crate::cpu::math::{per_simd_level, tanh};
use crate::device::CpuDevice;
use crate::tensor::ViewMut;

/// Columns of one task, so that one row of a large vocabulary keeps several threads busy.
const TASK_COLS: usize = 16_384;

pub(super) fn softcap(cpu: &CpuDevice, x: &ViewMut, cap: f32) {
    let cols = x.cols();
    let tasks_per_row = cols.div_ceil(TASK_COLS);
    cpu.pool.run(x.rows() * tasks_per_row, &|task| {
        let (row, part) = (task / tasks_per_row, task % tasks_per_row);
        let range = part * TASK_COLS..cols.min((part + 1) * TASK_COLS);
        // SAFETY: each task writes its own columns of its row.
        let x = unsafe { x.columns_f32_shared(row, range) };
        row_part(cpu.simd, x, cap);
    });
}

per_simd_level! {
    fn row_part(x: &mut [f32], cap: f32) = row_part_body
}

#[inline(always)]
fn row_part_body<const FMA: bool>(x: &mut [f32], cap: f32) {
    for v in x {
        *v = cap * tanh::<FMA>(*v / cap);
    }
}
