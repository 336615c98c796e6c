//! The matrix product on packed weights: x is quantized once, then tiles of weights are shared out to the threads.

use std::cell::RefCell;
use std::ops::Range;

use super::activations::{ActivationBuffer, Activations, Extras, PANEL};
use super::kernel::{Call, Kernel, Prefetch};
use super::scales::expand;
use super::weight::{PackedWeight, TileLayout};
use super::{BLOCK, TILE};
use crate::device::CpuDevice;
use crate::linear::scratch::with_scratch;
use crate::linear::weight::{LinearWeight, Part};
use crate::tensor::{View, ViewMut};

/// Elements of x that one task quantizes, about 10 microseconds of work.
const ELEMENTS_PER_TASK: usize = 1 << 16;

/// Bytes of quantized x that a task multiplies with: they stay in the second-level cache.
const BYTES_OF_X: usize = 512 << 10;

/// Nanoseconds of work that a task should have, and below which one thread is enough.
const TASK_NS: usize = 10_000;
const SINGLE_NS: usize = 2_000;

/// Tasks for each thread, at most.
const TASKS_PER_THREAD: usize = 8;

/// What one core does in a nanosecond, about: bytes of weights, multiply-adds.
const BYTES_PER_NS: usize = 40;
const PRODUCTS_PER_NS: usize = 400;

/// How far ahead of its use a weight is asked for when each is used once: some hundred nanoseconds.
const BYTES_AHEAD: usize = 12 << 10;

/// The packed parts of `weight`; others are left out.
pub(in crate::linear) fn linear(
    cpu: &CpuDevice,
    out: &ViewMut,
    x: View,
    weight: &LinearWeight,
    bias: Option<&[f32]>,
) {
    thread_local! {
        static BUFFER: RefCell<ActivationBuffer> = RefCell::default();
    }
    let precision = weight.activation_precision();
    let mut extras = Extras::default();
    for (_, part) in packed_parts(weight) {
        extras = extras.with(Kernel::choose(cpu.simd, part.packing, precision).extra);
    }
    BUFFER.with_borrow_mut(|buffer| {
        let activations = buffer.prepare(x.rows(), x.cols(), precision, extras);
        quantize(cpu, &activations, x);
        Product { cpu, out, num_rows: x.rows(), activations, weight, bias }.run();
    });
}

/// Each packed part with the column of its first feature.
fn packed_parts(weight: &LinearWeight) -> impl Iterator<Item = (usize, &PackedWeight)> {
    let mut end = 0;
    weight.parts().iter().filter_map(move |part| {
        let first = end;
        end += part.features();
        match part {
            Part::Packed(part) => Some((first, part)),
            Part::Dense(_) => None,
        }
    })
}

fn quantize(cpu: &CpuDevice, activations: &Activations, x: View) {
    let num_panels = x.rows().div_ceil(PANEL);
    let per_task = (ELEMENTS_PER_TASK / (PANEL * x.cols())).max(1);
    cpu.pool.run(num_panels.div_ceil(per_task), &|task| {
        for panel in task * per_task..num_panels.min((task + 1) * per_task) {
            let rows = panel * PANEL..x.rows().min((panel + 1) * PANEL);
            // SAFETY: each task has panels of its own.
            unsafe { activations.quantize_panel(cpu.simd, panel, rows.map(|row| x.row_f32(row))) };
        }
    });
}

struct Product<'a> {
    cpu: &'a CpuDevice,
    out: &'a ViewMut<'a>,
    num_rows: usize,
    activations: Activations<'a>,
    weight: &'a LinearWeight,
    bias: Option<&'a [f32]>,
}

impl Product<'_> {
    fn run(&self) {
        let num_tiles = packed_parts(self.weight).map(|(_, part)| part.num_tiles()).sum::<usize>();
        let bytes_of_row =
            2 * BLOCK * self.activations.num_pairs * self.activations.precision.bytes();
        let rows_at_once = (BYTES_OF_X / bytes_of_row).clamp(64, 1 << 20).next_multiple_of(PANEL);
        let num_row_blocks = self.num_rows.div_ceil(rows_at_once);
        let rows_at_once = self.num_rows.div_ceil(num_row_blocks.max(1)).next_multiple_of(PANEL);
        let num_shares = self.num_shares(rows_at_once.min(self.num_rows)).min(num_tiles);
        self.cpu.pool.run(num_row_blocks * num_shares, &|task| {
            let (block, share) = (task / num_shares, task % num_shares);
            let first_row = block * rows_at_once;
            let rows = first_row..self.num_rows.min(first_row + rows_at_once);
            let first = |share| share * num_tiles / num_shares;
            self.multiply(first(share)..first(share + 1), &rows);
        });
    }

    /// In how many shares the tiles are divided for `num_rows` rows.
    fn num_shares(&self, num_rows: usize) -> usize {
        let num_threads = self.cpu.pool.num_threads();
        let bytes = packed_parts(self.weight).map(|(_, part)| part.num_bytes()).sum::<usize>();
        let products = num_rows * self.weight.in_features() * self.weight.out_features();
        let work_ns = (bytes / BYTES_PER_NS).max(products / PRODUCTS_PER_NS);
        match work_ns < SINGLE_NS || num_threads == 1 {
            true => 1,
            false => (work_ns / TASK_NS)
                .next_multiple_of(num_threads)
                .clamp(num_threads, TASKS_PER_THREAD * num_threads),
        }
    }

    /// Tiles are counted through all packed parts.
    fn multiply(&self, tiles: Range<usize>, rows: &Range<usize>) {
        let mut first_tile = 0;
        for (first_column, part) in packed_parts(self.weight) {
            let end_tile = first_tile + part.num_tiles();
            let (start, end) = (tiles.start.max(first_tile), tiles.end.min(end_tile));
            if start < end {
                let tiles = start - first_tile..end - first_tile;
                self.multiply_part(first_column, part, tiles, rows);
            }
            first_tile = end_tile;
        }
    }

    fn multiply_part(
        &self,
        first_column: usize,
        part: &PackedWeight,
        tiles: Range<usize>,
        rows: &Range<usize>,
    ) {
        let kernel = Kernel::choose(self.cpu.simd, part.packing, self.activations.precision);
        let job = PartJob { kernel, layout: part.layout(), table: part.packing.codes.table() };
        with_scratch(part.num_scales() + PANEL * TILE, |scratch| {
            let (scales, edge) = scratch.split_at_mut(part.num_scales());
            for tile in tiles.clone() {
                let bytes = part.tiles_from(tile);
                let end = &bytes[..(tiles.end - tile) * job.layout.tile_bytes()];
                let mut prefetch = job.prefetch(end, rows.len());
                let packed = &bytes[..job.layout.scale_bytes];
                expand(self.cpu.simd, part.packing, packed, job.kernel.high_halves, scales);
                let features = tile * TILE..part.features().min((tile + 1) * TILE);
                let columns = first_column + features.start..first_column + features.end;
                self.multiply_tile(&job, bytes, scales, edge, &columns, rows, &mut prefetch);
                self.add_bias(&columns, rows);
            }
        });
    }

    #[expect(clippy::too_many_arguments, reason = "the inner loop's state")]
    fn multiply_tile(
        &self,
        job: &PartJob,
        tile: &[u8],
        scales: &[f32],
        edge: &mut [f32],
        columns: &Range<usize>,
        rows: &Range<usize>,
        prefetch: &mut Prefetch,
    ) {
        let activations = &self.activations;
        let element = activations.precision.bytes();
        let is_whole = columns.len() == TILE;
        let mut row = rows.start;
        while row < rows.end {
            let (panel, in_panel) = (row / PANEL, row % PANEL);
            let num_rows = job.kernel.rows_of_next_call((PANEL - in_panel).min(rows.end - row));
            let whole = is_whole.then(|| self.out.block_f32(row..row + num_rows, columns.clone()));
            let (out, out_stride) = whole.unwrap_or((edge.as_mut_ptr(), TILE));
            for first in (0..TILE).step_by(job.kernel.num_features) {
                let call = Call {
                    codes: tile[job.layout.scale_bytes + 4 * first..].as_ptr(),
                    scales: scales[first..].as_ptr(),
                    table: job.table.as_ptr(),
                    num_pairs: job.layout.num_pairs,
                    x: activations.codes(panel).wrapping_add(in_panel * BLOCK * element),
                    params: activations.params(panel).wrapping_add(in_panel),
                    params_stride: activations.extras.stride(),
                    extra: activations.extras.offset(job.kernel.extra),
                    out: out.wrapping_add(first),
                    out_stride,
                };
                // SAFETY: the tile has its layout's bytes, the panel was filled, `out` has the rows and a whole tile of
                // columns, which are this task's own; the kernel was chosen for this device, packing and precision.
                unsafe { job.kernel.run(num_rows, &call, prefetch) };
            }
            if !is_whole {
                for (row, sums) in (row..row + num_rows).zip(edge.chunks_exact(TILE)) {
                    // SAFETY: as above.
                    let out = unsafe { self.out.columns_f32_shared(row, columns.clone()) };
                    out.copy_from_slice(&sums[..columns.len()]);
                }
            }
            row += num_rows;
        }
    }

    fn add_bias(&self, columns: &Range<usize>, rows: &Range<usize>) {
        let Some(bias) = self.bias else { return };
        for row in rows.clone() {
            // SAFETY: each task writes rows or columns of its own.
            let out = unsafe { self.out.columns_f32_shared(row, columns.clone()) };
            out.iter_mut().zip(&bias[columns.clone()]).for_each(|(out, bias)| *out += bias);
        }
    }
}

/// What all tiles of a part share.
struct PartJob {
    kernel: Kernel,
    layout: TileLayout,
    table: [u8; 16],
}

impl PartJob {
    /// For the tile at the start of `tiles`, which end where this thread's weights end: with one call a tile the weights
    /// that come soon, with more the next tile, spread over this tile's calls.
    fn prefetch(&self, tiles: &[u8], num_rows: usize) -> Prefetch {
        let (whole, rest) = (num_rows / PANEL, num_rows % PANEL);
        let calls_of_rest =
            rest / self.kernel.most_rows + (rest % self.kernel.most_rows).count_ones() as usize;
        let calls_of_row = whole * (PANEL / self.kernel.most_rows) + calls_of_rest;
        let calls = calls_of_row * (TILE / self.kernel.num_features);
        let tile_bytes = self.layout.tile_bytes();
        let ahead = if calls == 1 { BYTES_AHEAD } else { tile_bytes };
        let lines = tile_bytes.div_ceil(64);
        Prefetch {
            next: tiles.as_ptr().wrapping_add(ahead),
            end: tiles.as_ptr_range().end,
            lines_per_pair: lines.div_ceil(self.layout.num_pairs * calls.max(1)),
        }
    }
}
