//! `scale_by_position` on the CPU: a task has some rows.

use crate::device::CpuDevice;
use crate::tensor::ViewMut;

/// Rows of one task: some microseconds of work.
const ROWS_PER_TASK: usize = 16;

pub(super) fn scale_by_position(cpu: &CpuDevice, x: &ViewMut, positions: &[u32], factors: &[f32]) {
    cpu.pool.run(x.rows().div_ceil(ROWS_PER_TASK), &|task| {
        let first = task * ROWS_PER_TASK;
        for row in first..x.rows().min(first + ROWS_PER_TASK) {
            let factor = factors[positions[row] as usize];
            // SAFETY: each task writes rows of its own.
            let x = unsafe { x.row_f32_shared(row) };
            for v in x {
                *v *= factor;
            }
        }
    });
}
