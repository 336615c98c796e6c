//! `mean_rows` on the CPU: a task has some results; each column is one chain of additions in the order of rows.

use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

pub(super) fn mean_rows(cpu: &CpuDevice, out: &ViewMut, x: View, starts: &[u32], ends: &[u32]) {
    cpu.pool.run_ranges(starts.len(), 1, &|indices| {
        for index in indices {
            // SAFETY: each task writes its own rows.
            let out = unsafe { out.row_f32_shared(index) };
            let (start, end) = (starts[index] as usize, ends[index] as usize);
            out.copy_from_slice(x.row_f32(start));
            for row in start + 1..end {
                out.iter_mut().zip(x.row_f32(row)).for_each(|(sum, &x)| *sum += x);
            }
            let num_rows = (end - start) as f32;
            out.iter_mut().for_each(|sum| *sum /= num_rows);
        }
    });
}
