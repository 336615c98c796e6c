//! `embedding` on the CPU: each token's row is dequantized into its place.

use crate::device::CpuDevice;
use crate::linear::LinearWeight;
use crate::tensor::ViewMut;

/// Tokens of one task: some microseconds of work.
const ROWS_PER_TASK: usize = 16;

pub(super) fn embedding(
    cpu: &CpuDevice,
    out: &ViewMut,
    ids: &[u32],
    (table, first_id): (&LinearWeight, usize),
    scale: f32,
) {
    cpu.pool.run(ids.len().div_ceil(ROWS_PER_TASK), &|task| {
        let first = task * ROWS_PER_TASK;
        for row in first..ids.len().min(first + ROWS_PER_TASK) {
            // SAFETY: each task writes rows of its own.
            let out = unsafe { out.row_f32_shared(row) };
            let feature = (ids[row] as usize).checked_sub(first_id);
            let Some(feature) = feature.filter(|&feature| feature < table.out_features()) else {
                out.fill(0.0);
                continue;
            };
            table.dequantize_feature(cpu.simd, feature, out);
            for v in out.iter_mut() {
                *v *= scale;
            }
        }
    });
}
