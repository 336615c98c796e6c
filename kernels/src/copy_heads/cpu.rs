//! `copy_heads` on the CPU: a task has some rows.

use super::CopyHeads;
use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

/// Numbers that are some microseconds of work.
const SMALLEST_TASK: usize = 64 << 10;

pub(super) fn copy_heads(cpu: &CpuDevice, out: &ViewMut, x: View, heads: CopyHeads) {
    let smallest = SMALLEST_TASK.div_ceil((heads.num_heads * heads.width).max(1));
    cpu.pool.run_ranges(x.rows(), smallest, &|rows| {
        for row in rows {
            let x = x.row_f32(row);
            for head in 0..heads.num_heads {
                let start = head * heads.out_stride;
                // SAFETY: each row is one task's.
                let out = unsafe { out.columns_f32_shared(row, start..start + heads.width) };
                out.copy_from_slice(&x[head * heads.x_stride..][..heads.width]);
            }
        }
    });
}
