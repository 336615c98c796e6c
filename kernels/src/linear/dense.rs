//! `linear` with weights that are floats: a task widens a tile of weight rows once and multiplies it with a block of rows
//! of `x`, in float32.

use std::ops::Range;

use super::microkernel::{self, MAX_ROWS, PADDING, Sums, WEIGHT_ROWS};
use super::scratch::with_scratch;
use super::weight::{DensePart, LinearWeight, Part};
use crate::cpu::SimdLevel;
use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

/// Rows of `x` of one task: enough to pay for dequantizing the tile, few enough to stay in the second-level cache.
const ROWS_PER_TASK: usize = 256;

/// Weight rows that are dequantized together when there are rows of `x` to reuse them for.
const TILE_FEATURES: usize = 16;

/// Elements of a tile that is used once: half of the first-level cache.
const SMALL_TILE: usize = (24 << 10) / size_of::<f32>();

/// Weight bytes of one task when there are few rows of `x`: some microseconds of work.
const BYTES_PER_TASK: usize = 64 << 10;

/// The dense parts of `weight`; others are left out.
pub(super) fn linear(
    cpu: &CpuDevice,
    out: &ViewMut,
    x: View,
    weight: &LinearWeight,
    bias: Option<&[f32]>,
) {
    let num_row_blocks = x.rows().div_ceil(ROWS_PER_TASK);
    let tasks_of = |part: &Part| match part {
        Part::Dense(part) => part.features().div_ceil(features_per_task(cpu, part, x.rows())),
        Part::Packed(_) => 0,
    };
    let num_tasks = weight.parts().iter().map(tasks_of).sum::<usize>();
    cpu.pool.run(num_tasks * num_row_blocks, &|task| {
        let first_row = task / num_tasks * ROWS_PER_TASK;
        let rows = first_row..x.rows().min(first_row + ROWS_PER_TASK);
        let (mut index, mut first_column) = (task % num_tasks, 0);
        for part in weight.parts() {
            let num_tasks = tasks_of(part);
            if let Part::Dense(part) = part
                && index < num_tasks
            {
                let step = features_per_task(cpu, part, x.rows());
                let features = index * step..part.features().min((index + 1) * step);
                return Job { simd: cpu.simd, out, x, bias, part, first_column, rows }
                    .run(features);
            }
            index -= num_tasks;
            first_column += part.features();
        }
    });
}

/// How many output features a task computes; changes the division of work only, never a result.
fn features_per_task(cpu: &CpuDevice, part: &DensePart, num_rows: usize) -> usize {
    if num_rows > MAX_ROWS {
        return TILE_FEATURES;
    }
    let share = part.features().div_ceil(2 * cpu.pool.num_threads());
    share.min(BYTES_PER_TASK / part.row_bytes().max(1)).max(1).next_multiple_of(2 * WEIGHT_ROWS)
}

/// A block of rows of `x` and one part of the weight.
struct Job<'a> {
    simd: SimdLevel,
    out: &'a ViewMut<'a>,
    x: View<'a>,
    bias: Option<&'a [f32]>,
    part: &'a DensePart,
    /// Column of `out` of the part's first feature.
    first_column: usize,
    rows: Range<usize>,
}

impl Job<'_> {
    fn run(&self, features: Range<usize>) {
        let k = self.x.cols();
        let stride = k.next_multiple_of(PADDING);
        let one_call = self.rows.len() <= microkernel::most_rows(self.simd);
        let num_features = match (one_call, 2 * WEIGHT_ROWS * stride <= SMALL_TILE) {
            (false, _) => TILE_FEATURES,
            (true, true) => 2 * WEIGHT_ROWS,
            (true, false) => WEIGHT_ROWS,
        };
        with_scratch(num_features * stride, |tile| {
            for first in features.clone().step_by(num_features) {
                let features = first..features.end.min(first + num_features);
                for (feature, row) in features.clone().zip(tile.chunks_exact_mut(stride)) {
                    let (row, padding) = row.split_at_mut(k);
                    // Row by row: a whole tile's lines at once would wait for each other.
                    self.part.prefetch(feature + num_features);
                    self.part.dequantize(self.simd, feature, row);
                    padding.fill(0.0);
                }
                self.multiply(tile, stride, features);
            }
        });
    }

    fn multiply(&self, tile: &[f32], stride: usize, features: Range<usize>) {
        let mut sums = Sums::default();
        let mut rows = self.rows.clone();
        while !rows.is_empty() {
            let num_rows = microkernel::rows_of_next_call(self.simd, rows.len());
            let mut x = [&[][..]; MAX_ROWS];
            for (x, row) in x.iter_mut().zip(rows.start..rows.start + num_rows) {
                *x = self.x.row_f32(row);
            }
            for (group, first) in features.clone().step_by(WEIGHT_ROWS).enumerate() {
                let weights = &tile[group * WEIGHT_ROWS * stride..];
                microkernel::multiply(self.simd, weights, stride, &x[..num_rows], &mut sums);
                let features = first..features.end.min(first + WEIGHT_ROWS);
                self.store(rows.start, features, &sums[..num_rows]);
            }
            rows.start += num_rows;
        }
    }

    /// Writes `sums[r][w]` to row `first_row + r`, the column of feature `w`.
    fn store(&self, first_row: usize, features: Range<usize>, sums: &[[f32; WEIGHT_ROWS]]) {
        let columns = self.first_column + features.start..self.first_column + features.end;
        for (row, sums) in sums.iter().enumerate() {
            // SAFETY: each task writes rows or columns of its own.
            let out = unsafe { self.out.columns_f32_shared(first_row + row, columns.clone()) };
            out.copy_from_slice(&sums[..columns.len()]);
            if let Some(bias) = self.bias {
                out.iter_mut().zip(&bias[columns.clone()]).for_each(|(out, bias)| *out += bias);
            }
        }
    }
}
