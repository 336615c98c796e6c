//! `gather_rows` on the CPU: one task a row.

use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

pub(super) fn gather_rows(cpu: &CpuDevice, out: &ViewMut, x: View, rows: &[u32]) {
    cpu.pool.run(rows.len(), &|index| {
        // SAFETY: each task writes its own row.
        let out = unsafe { out.row_f32_shared(index) };
        out.copy_from_slice(x.row_f32(rows[index] as usize));
    });
}
