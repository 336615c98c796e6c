//! The matrix product on packed weights: x is quantized once for each precision that a part of the weight asks for, then
//! tiles of weights are shared out to the threads.

use std::cell::RefCell;
use std::ops::Range;

use super::activations::{ActivationBuffer, ActivationPrecision, Activations, Extras, PANEL};
use super::kernel::{Call, Kernel, Prefetch};
use super::weight::PackedWeight;
use super::{BLOCK, TILE};
use crate::cpu::{Phase, ReadAhead, ThreadPool};
use crate::device::CpuDevice;
use crate::linear::input::Input;
use crate::linear::scratch::with_scratch;
use crate::linear::weight::{LinearWeight, Part};
use crate::tensor::{View, ViewMut};

/// Bytes of quantized x that a task multiplies with: they stay in the second-level cache.
const BYTES_OF_X: usize = 512 << 10;

/// Nanoseconds of work below which one thread is enough.
const SINGLE_NS: usize = 2_000;

/// What one core does in a nanosecond, about: bytes of weights, multiply-adds.
const BYTES_PER_NS: usize = 40;
const PRODUCTS_PER_NS: usize = 400;

/// How far ahead of its use a weight is asked for when each is used once: some hundred nanoseconds.
const BYTES_AHEAD: usize = 12 << 10;

/// Packed parts of a weight, at most: q, k and v.
const MAX_PARTS: usize = 4;

/// The packed parts of `weight`; others are left out.
pub(in crate::linear) fn linear(
    cpu: &CpuDevice,
    out: &ViewMut,
    input: &Input,
    weight: &LinearWeight,
    bias: Option<&[f32]>,
) {
    if packed_parts(weight).any(|(_, part)| part.order.is_none()) {
        multiply_parts(cpu, out, input, weight, bias, &|part| part.order.is_none());
    }
    for (_, part) in packed_parts(weight) {
        let Some(order) = &part.order else { continue };
        with_columns(cpu, input.rows(), order, |x| {
            let is_part = |other: &_| std::ptr::eq(part, other);
            multiply_parts(cpu, out, &x.into(), weight, bias, &is_part);
        });
    }
}

/// Calls `run` with the columns of x in another order. The memory belongs to the thread.
fn with_columns(cpu: &CpuDevice, x: View, order: &[u32], run: impl FnOnce(View)) {
    thread_local! {
        static ORDERED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    ORDERED.with_borrow_mut(|buffer| {
        let len = x.rows() * x.cols();
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
        let ordered = ViewMut::from_f32(&mut buffer[..len], x.rows(), x.cols());
        cpu.pool.run(x.rows(), &|row| {
            // SAFETY: each task writes its own row.
            let to = unsafe { ordered.row_f32_shared(row) };
            let from = x.row_f32(row);
            to.iter_mut().zip(order).for_each(|(to, &k)| *to = from[k as usize]);
        });
        run(ordered.as_view());
    });
}

/// The packed parts that `is_chosen`.
fn multiply_parts(
    cpu: &CpuDevice,
    out: &ViewMut,
    input: &Input,
    weight: &LinearWeight,
    bias: Option<&[f32]>,
    is_chosen: &dyn Fn(&PackedWeight) -> bool,
) {
    let x = input.rows();
    thread_local! {
        static BUFFERS: RefCell<[ActivationBuffer; 3]> = RefCell::default();
    }
    let parts = jobs_of(cpu, weight, is_chosen);
    BUFFERS.with_borrow_mut(|buffers| {
        let mut buffers = buffers.iter_mut();
        let activations = ActivationPrecision::ALL.map(|precision| {
            let buffer = buffers.next().expect("one for each precision");
            let extras = extras(None, &parts, precision)?;
            Some(buffer.prepare(x.rows(), x.cols(), precision, extras))
        });
        Product { cpu, out, x, activations, weight, bias, parts, first_row: 0 }.run(input);
    });
}

/// Whether so many bytes of weights and multiply-adds are not worth a second thread.
pub(super) fn is_small(bytes: usize, products: usize) -> bool {
    (bytes / BYTES_PER_NS).max(products / PRODUCTS_PER_NS) < SINGLE_NS
}

/// The packed parts of a weight.
pub(super) type Jobs<'a> = [Option<PartJob<'a>>; MAX_PARTS];

/// How each packed part of `weight` is multiplied.
pub(super) fn jobs<'a>(cpu: &CpuDevice, weight: &'a LinearWeight) -> Jobs<'a> {
    jobs_of(cpu, weight, &|_| true)
}

fn jobs_of<'a>(
    cpu: &CpuDevice,
    weight: &'a LinearWeight,
    is_chosen: &dyn Fn(&PackedWeight) -> bool,
) -> Jobs<'a> {
    let parts = packed_parts(weight).filter(|(_, part)| is_chosen(part));
    let mut jobs = parts.map(|(first_column, part)| {
        let kernel = Kernel::choose(cpu.simd, part.packing, part.activations);
        PartJob { part, first_column, kernel, table: part.packing.codes.table() }
    });
    let parts = std::array::from_fn(|_| jobs.next());
    assert!(jobs.next().is_none(), "a weight has up to {MAX_PARTS} packed parts");
    parts
}

/// What `jobs` of that precision need of x, and `others`; `None` when nothing has it.
pub(super) fn extras(
    others: Option<Extras>,
    jobs: &Jobs,
    precision: ActivationPrecision,
) -> Option<Extras> {
    let jobs = jobs.iter().flatten().filter(|job| job.part.activations == precision);
    jobs.fold(others, |others, job| {
        let others = others.unwrap_or_default();
        Some(job.kernel.extra.map_or(others, |extra| others.with(extra)))
    })
}

/// Each packed part with the column of its first feature.
fn packed_parts(weight: &LinearWeight) -> impl Iterator<Item = (usize, &PackedWeight)> {
    let mut end = 0;
    weight.parts().iter().filter_map(move |part| {
        let first = end;
        end += part.features();
        match part {
            Part::Packed(part) => Some((first, part)),
            Part::Dense(_) | Part::Cuda(_) => None,
        }
    })
}

/// How many blocks of how many rows share what is quantized.
pub(super) fn row_blocks(
    activations: &[Option<Activations>; 3],
    num_rows: usize,
) -> (usize, usize) {
    let activations = activations.iter().flatten();
    let bytes_of_row =
        activations.map(|x| 2 * BLOCK * x.num_pairs * x.precision.bytes()).sum::<usize>();
    let rows_at_once =
        (BYTES_OF_X / bytes_of_row.max(1)).clamp(64, 1 << 20).next_multiple_of(PANEL);
    let num_row_blocks = num_rows.div_ceil(rows_at_once);
    (num_row_blocks, num_rows.div_ceil(num_row_blocks.max(1)).next_multiple_of(PANEL))
}

pub(super) struct Product<'a> {
    pub cpu: &'a CpuDevice,
    pub out: &'a ViewMut<'a>,
    pub x: View<'a>,
    /// x in each precision that a part asks for.
    pub activations: [Option<Activations<'a>>; 3],
    /// Row of `out` that the first row of `activations` makes.
    pub first_row: usize,
    pub weight: &'a LinearWeight,
    pub bias: Option<&'a [f32]>,
    pub parts: Jobs<'a>,
}

/// A part and how it is multiplied.
pub(super) struct PartJob<'a> {
    part: &'a PackedWeight,
    first_column: usize,
    kernel: Kernel,
    table: [u8; 16],
}

impl Product<'_> {
    fn run(&self, input: &Input) {
        let num_rows = self.x.rows();
        let num_tiles = self.parts.iter().flatten().map(|job| job.part.num_tiles()).sum::<usize>();
        let (num_row_blocks, rows_at_once) = row_blocks(&self.activations, num_rows);
        let num_items = num_row_blocks * num_tiles;
        let quantize = |panel| self.quantize(panel, input);
        let multiply = |item| {
            let (block, tile) = (item / num_tiles, item % num_tiles);
            let rows = block * rows_at_once..num_rows.min((block + 1) * rows_at_once);
            let share = self.cpu.pool.share(num_items);
            let is_own = share.contains(&item);
            let end = if is_own { tile + share.end - item } else { tile + 1 };
            let then = if is_own && end <= num_tiles { self.next() } else { NOTHING };
            self.multiply(tile..end, &rows, then);
            if is_own && item + 1 == share.end {
                ReadAhead::set(&self.next());
            }
        };
        let phases = [
            Phase { num_items: num_rows.div_ceil(PANEL), task: &quantize },
            Phase { num_items, task: &multiply },
        ];
        if self.is_small() {
            phases.iter().for_each(|phase| (0..phase.num_items).for_each(phase.task));
        } else {
            self.cpu.pool.run_phases(&phases);
        }
    }

    /// Not worth a second thread.
    fn is_small(&self) -> bool {
        let bytes = self.parts.iter().flatten().map(|job| job.part.num_bytes()).sum::<usize>();
        let products = self.x.rows() * self.weight.in_features() * self.weight.out_features();
        is_small(bytes, products)
    }

    fn quantize(&self, panel: usize, input: &Input) {
        let rows = panel * PANEL..self.x.rows().min((panel + 1) * PANEL);
        for row in rows.clone() {
            // SAFETY: each panel is one task's, and so are the rows in it.
            unsafe { input.make_row(self.cpu.simd, row) };
        }
        let rows = rows.map(|row| self.x.row_f32(row));
        for activations in self.activations.iter().flatten() {
            // SAFETY: each panel is one task's.
            unsafe { activations.quantize_panel(self.cpu.simd, panel, rows.clone()) };
        }
    }

    /// What this thread reads after its share.
    fn next(&self) -> Range<*const u8> {
        self.weight.next_share(ThreadPool::thread(), self.cpu.pool.num_threads())
    }

    /// The first of `tiles`, counted through all parts; the others are this thread's next, and then it reads `then`.
    pub(super) fn multiply(
        &self,
        tiles: Range<usize>,
        rows: &Range<usize>,
        then: Range<*const u8>,
    ) {
        let mut first = 0;
        for job in self.parts.iter().flatten() {
            let num_tiles = job.part.num_tiles();
            if tiles.start < first + num_tiles {
                let (tile, end) = (tiles.start - first, (tiles.end - first).min(num_tiles));
                let then = if tiles.end - first <= num_tiles { then } else { NOTHING };
                return self.multiply_tile_of(job, tile..end, rows, then);
            }
            first += num_tiles;
        }
    }

    fn multiply_tile_of(
        &self,
        job: &PartJob,
        tiles: Range<usize>,
        rows: &Range<usize>,
        then: Range<*const u8>,
    ) {
        let (part, layout, tile) = (job.part, job.part.layout(), tiles.start);
        with_scratch(part.num_scales() + PANEL * TILE, |scratch| {
            let (scales, edge) = scratch.split_at_mut(part.num_scales());
            let bytes = &part.tiles_from(tile)[..tiles.len() * layout.tile_bytes()];
            let mut prefetch = job.prefetch(bytes, rows.len(), then);
            part.expand_scales(self.cpu.simd, bytes, job.kernel.high_halves, scales);
            let features = tile * TILE..part.features().min((tile + 1) * TILE);
            let columns = job.first_column + features.start..job.first_column + features.end;
            self.multiply_tile(job, bytes, scales, edge, &columns, rows, &mut prefetch);
            self.add_bias(&columns, rows);
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
        let activations = self.activations[job.part.activations as usize].as_ref();
        let activations = activations.expect("made for each part's precision");
        let layout = job.part.layout();
        let element = activations.precision.bytes();
        let is_whole = columns.len() == TILE;
        let mut row = rows.start;
        while row < rows.end {
            let in_x = row - self.first_row;
            let (panel, in_panel) = (in_x / PANEL, in_x % PANEL);
            let num_rows = job.kernel.rows_of_next_call((PANEL - in_panel).min(rows.end - row));
            let whole = is_whole.then(|| self.out.block_f32(row..row + num_rows, columns.clone()));
            let (out, out_stride) = whole.unwrap_or((edge.as_mut_ptr(), TILE));
            for first in (0..TILE).step_by(job.kernel.num_features) {
                let call = Call {
                    codes: tile[layout.scale_bytes + 4 * first..].as_ptr(),
                    scales: scales[first..].as_ptr(),
                    table: job.table.as_ptr(),
                    num_pairs: layout.num_pairs,
                    x: activations.codes(panel).wrapping_add(in_panel * BLOCK * element),
                    params: activations.params(panel).wrapping_add(in_panel),
                    params_stride: activations.extras.stride(),
                    extra: job.kernel.extra.map_or(0, |extra| activations.extras.offset(extra)),
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

pub(super) const NOTHING: Range<*const u8> = std::ptr::null()..std::ptr::null();

impl PartJob<'_> {
    /// For the tile at the start of `tiles`, behind which this thread reads `then`: with one call a tile the weights that
    /// come soon, with more the next tile, spread over this tile's calls.
    fn prefetch(&self, tiles: &[u8], num_rows: usize, then: Range<*const u8>) -> Prefetch {
        let (whole, rest) = (num_rows / PANEL, num_rows % PANEL);
        let calls_of_rest =
            rest / self.kernel.most_rows + (rest % self.kernel.most_rows).count_ones() as usize;
        let calls_of_row = whole * (PANEL / self.kernel.most_rows) + calls_of_rest;
        let calls = (calls_of_row * (TILE / self.kernel.num_features)).max(1);
        let layout = self.part.layout();
        let num_lines = layout.tile_bytes().div_ceil(64);
        let ahead = if calls == 1 { BYTES_AHEAD } else { layout.tile_bytes() };
        Prefetch {
            next: tiles.as_ptr().wrapping_add(ahead.min(tiles.len())),
            end: tiles.as_ptr_range().end,
            then,
            lines_left: num_lines,
            lines_at_once: num_lines.div_ceil(layout.num_pairs * self.kernel.prefetches * calls),
        }
    }
}
