//! `add_rows` on the CPU: a task has some rows.

use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

pub(super) fn add_rows(cpu: &CpuDevice, x: &ViewMut, table: View, rows: Option<&[u32]>) {
    // Rows that are some microseconds of work.
    let smallest_task = (1 << 15) / x.cols().max(1);
    cpu.pool.run_ranges(x.rows(), smallest_task, &|indices| {
        for index in indices {
            // SAFETY: each task writes its own rows.
            let x = unsafe { x.row_f32_shared(index) };
            let added = table.row_f32(rows.map_or(0, |rows| rows[index] as usize));
            x.iter_mut().zip(added).for_each(|(x, &added)| *x += added);
        }
    });
}
