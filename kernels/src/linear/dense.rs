//! `linear` with weights that are floats: a task widens a tile of weight rows once and multiplies it with a block of rows
//! of `x`, in float32.

use std::cell::RefCell;
use std::ops::Range;

use super::experts::ExpertJob;
use super::microkernel::{self, MAX_ROWS, PADDING, Sums, WEIGHT_ROWS};
use super::scratch::with_scratch;
use super::weight::{DensePart, LinearWeight, Part};
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
    let x_row = |row| x.row_f32(row);
    // SAFETY: tasks write rows or columns of their own.
    let out = unsafe { out.alias() };
    let call = Call { cpu, out, x_row: &x_row, k: x.cols(), weight, bias, rows: 0..x.rows() };
    cpu.pool.run(call.num_tasks(), &|task| call.run(task));
}

/// The dense parts of all experts; others are left out.
pub(super) fn expert_linear(cpu: &CpuDevice, job: &ExpertJob) {
    thread_local! {
        static ENDS: RefCell<Vec<(usize, usize)>> = const { RefCell::new(Vec::new()) };
    }
    let run = |expert, use_call: &mut dyn FnMut(&Call)| {
        let x_row = |row| job.x_row(expert, row);
        // SAFETY: tasks write rows or columns of their own, and experts of theirs.
        let out = unsafe { job.out(expert) };
        let (weight, bias, rows) = (job.weight(expert), job.bias(expert), job.rows_of(expert));
        use_call(&Call { cpu, out, x_row: &x_row, k: job.in_features(), weight, bias, rows });
    };
    ENDS.with_borrow_mut(|ends| {
        ends.clear();
        ends.reserve(job.num_experts());
        let mut num_tasks = 0;
        for (expert, _) in job.experts() {
            run(expert, &mut |call| num_tasks += call.num_tasks());
            ends.push((num_tasks, expert));
        }
        let ends = &ends[..];
        cpu.pool.run(num_tasks, &|task| {
            let at = ends.partition_point(|&(end, _)| end <= task);
            let first = at.checked_sub(1).map_or(0, |before| ends[before].0);
            run(ends[at].1, &mut |call| call.run(task - first));
        });
    });
}

/// Some rows and the weight they are multiplied with.
struct Call<'a> {
    cpu: &'a CpuDevice,
    out: ViewMut<'a>,
    /// The row of x for a row of `out`.
    x_row: &'a (dyn Fn(usize) -> &'a [f32] + Sync),
    /// Elements of a row of x.
    k: usize,
    weight: &'a LinearWeight,
    bias: Option<&'a [f32]>,
    /// Rows of `out`.
    rows: Range<usize>,
}

impl Call<'_> {
    fn num_tasks(&self) -> usize {
        self.rows.len().div_ceil(ROWS_PER_TASK) * self.tasks_of_block()
    }

    /// Tasks that share a block of rows.
    fn tasks_of_block(&self) -> usize {
        self.weight.parts().iter().map(|part| self.tasks_of(part)).sum()
    }

    fn tasks_of(&self, part: &Part) -> usize {
        match part {
            Part::Dense(part) => {
                part.features().div_ceil(features_per_task(self.cpu, part, self.rows.len()))
            }
            Part::Packed(_) | Part::Cuda(_) => 0,
        }
    }

    fn run(&self, task: usize) {
        let per_block = self.tasks_of_block();
        let first_row = self.rows.start + task / per_block * ROWS_PER_TASK;
        let rows = first_row..self.rows.end.min(first_row + ROWS_PER_TASK);
        let (mut index, mut first_column) = (task % per_block, 0);
        for part in self.weight.parts() {
            let num_tasks = self.tasks_of(part);
            if let Part::Dense(part) = part
                && index < num_tasks
            {
                let step = features_per_task(self.cpu, part, self.rows.len());
                let features = index * step..part.features().min((index + 1) * step);
                return Job { call: self, part, first_column, rows }.run(features);
            }
            index -= num_tasks;
            first_column += part.features();
        }
    }
}

/// How many output features a task computes; changes the division of work only, never a result.
fn features_per_task(cpu: &CpuDevice, part: &DensePart, num_rows: usize) -> usize {
    if num_rows > MAX_ROWS {
        return TILE_FEATURES;
    }
    let share = part.features().div_ceil(2 * cpu.pool.num_threads());
    share.min(BYTES_PER_TASK / part.row_bytes().max(1)).max(1).next_multiple_of(2 * WEIGHT_ROWS)
}

/// A block of rows and one part of the weight.
struct Job<'c, 'a> {
    call: &'c Call<'a>,
    part: &'c DensePart,
    /// Column of `out` of the part's first feature.
    first_column: usize,
    rows: Range<usize>,
}

impl Job<'_, '_> {
    fn run(&self, features: Range<usize>) {
        let (k, simd) = (self.call.k, self.call.cpu.simd);
        let stride = k.next_multiple_of(PADDING);
        let one_call = self.rows.len() <= microkernel::most_rows(simd);
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
                    self.part.dequantize(simd, feature, row);
                    padding.fill(0.0);
                }
                self.multiply(tile, stride, features);
            }
        });
    }

    fn multiply(&self, tile: &[f32], stride: usize, features: Range<usize>) {
        let simd = self.call.cpu.simd;
        let mut sums = Sums::default();
        let mut rows = self.rows.clone();
        while !rows.is_empty() {
            let num_rows = microkernel::rows_of_next_call(simd, rows.len());
            let mut x = [&[][..]; MAX_ROWS];
            for (x, row) in x.iter_mut().zip(rows.start..rows.start + num_rows) {
                *x = (self.call.x_row)(row);
            }
            for (group, first) in features.clone().step_by(WEIGHT_ROWS).enumerate() {
                let weights = &tile[group * WEIGHT_ROWS * stride..];
                microkernel::multiply(simd, weights, stride, &x[..num_rows], &mut sums);
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
            let out = unsafe { self.call.out.columns_f32_shared(first_row + row, columns.clone()) };
            out.copy_from_slice(&sums[..columns.len()]);
            if let Some(bias) = self.call.bias {
                out.iter_mut().zip(&bias[columns.clone()]).for_each(|(out, bias)| *out += bias);
            }
        }
    }
}
