//! `weigh_experts` on the CPU: a task has some rows.

use crate::device::CpuDevice;
use crate::route_experts::ExpertRouting;
use crate::tensor::ViewMut;

/// Numbers that are some microseconds of work.
const SMALLEST_TASK: usize = 64 << 10;

pub(super) fn weigh_experts(cpu: &CpuDevice, x: &ViewMut, routing: &ExpertRouting) {
    let per_row = (routing.num_chosen() * x.cols()).max(1);
    cpu.pool.run_ranges(routing.num_rows(), SMALLEST_TASK.div_ceil(per_row), &|rows| {
        for row in rows {
            for (&place, &weight) in routing.places_of(row).iter().zip(routing.weights_of(row)) {
                // SAFETY: each place is of one row, and each row is one task's.
                let x = unsafe { x.row_f32_shared(place as usize) };
                x.iter_mut().for_each(|x| *x *= weight);
            }
        }
    });
}
