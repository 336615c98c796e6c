//! `gather_rows` on the CPU: a task has some rows.

use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

pub(super) fn gather_rows(cpu: &CpuDevice, out: &ViewMut, x: View, rows: &[u32]) {
    // Rows that are some microseconds of work.
    let smallest_task = (1 << 16) / x.cols().max(1);
    cpu.pool.run_ranges(rows.len(), smallest_task, &|indices| {
        for index in indices {
            // SAFETY: each task writes its own rows.
            let out = unsafe { out.row_f32_shared(index) };
            out.copy_from_slice(x.row_f32(rows[index] as usize));
        }
    });
}
