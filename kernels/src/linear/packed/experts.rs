//! The matrix product of many experts' packed weights, each with rows of its own: rows are quantized in the order of their
//! experts, each expert's from a panel of its own on, then the tiles of all experts are shared out to the threads.

use std::cell::RefCell;
use std::ops::Range;

use super::activations::{ActivationBuffer, ActivationPrecision, Activations, PANEL};
use super::product::{Jobs, NOTHING, Product, extras, is_small, jobs, row_blocks};
use crate::cpu::Phase;
use crate::device::CpuDevice;
use crate::linear::experts::ExpertJob;
use crate::linear::weight::Part;

/// An expert that has rows.
#[derive(Clone, Copy)]
struct Segment {
    expert: usize,
    first_panel: usize,
    first_item: usize,
    num_tiles: usize,
    /// Rows that an item multiplies with.
    rows_at_once: usize,
}

#[derive(Default)]
struct Buffers {
    activations: [ActivationBuffer; 3],
    segments: Vec<Segment>,
}

/// The packed parts of all experts; others are left out.
pub(in crate::linear) fn expert_linear(cpu: &CpuDevice, job: &ExpertJob) {
    thread_local! {
        static BUFFERS: RefCell<Buffers> = RefCell::default();
    }
    BUFFERS.with_borrow_mut(|Buffers { activations: buffers, segments }| {
        segments.clear();
        segments.reserve(job.num_experts());
        let (mut num_panels, mut bytes, mut products) = (0, 0, 0);
        let mut needs = [None; 3];
        for (expert, rows) in job.experts() {
            let parts = jobs(cpu, job.weight(expert));
            for (needs, precision) in needs.iter_mut().zip(ActivationPrecision::ALL) {
                *needs = extras(*needs, &parts, precision);
            }
            let (mut num_tiles, first_panel) = (0, num_panels);
            for part in job.weight(expert).parts() {
                if let Part::Packed(part) = part {
                    num_tiles += part.num_tiles();
                    bytes += part.num_bytes();
                }
            }
            num_panels += rows.len().div_ceil(PANEL);
            let weight = job.weight(expert);
            products += rows.len() * weight.in_features() * weight.out_features();
            let (first_item, rows_at_once) = (0, 0);
            segments.push(Segment { expert, first_panel, first_item, num_tiles, rows_at_once });
        }
        let k = job.in_features();
        // However the same number of rows falls to experts later, it will fit.
        let room = PANEL * most_panels(job, num_panels);
        let mut buffers = buffers.iter_mut().zip(needs);
        let activations = ActivationPrecision::ALL.map(|precision| {
            let (buffer, needs) = buffers.next().expect("one for each precision");
            Some(buffer.prepare(room, k, precision, needs?))
        });
        let mut num_items = 0;
        for segment in segments.iter_mut() {
            let num_rows = job.rows_of(segment.expert).len();
            let (num_blocks, rows_at_once) = row_blocks(&activations, num_rows);
            (segment.first_item, segment.rows_at_once) = (num_items, rows_at_once);
            num_items += num_blocks * segment.num_tiles;
        }
        let product = ExpertProduct { cpu, job, activations, segments, num_items };
        product.run(num_panels, is_small(bytes, products));
    });
}

/// Panels that as many rows as these can take: of each expert the last may be almost empty.
fn most_panels(job: &ExpertJob, num_panels: usize) -> usize {
    let num_rows = job.experts().map(|(_, rows)| rows.len()).sum::<usize>();
    num_panels.max(num_rows.min(job.num_experts() + num_rows / PANEL))
}

struct ExpertProduct<'a> {
    cpu: &'a CpuDevice,
    job: &'a ExpertJob<'a>,
    /// As in `Product`, of all segments.
    activations: [Option<Activations<'a>>; 3],
    segments: &'a [Segment],
    num_items: usize,
}

impl ExpertProduct<'_> {
    fn run(&self, num_panels: usize, is_small: bool) {
        let quantize = |panel| self.quantize(panel);
        let multiply = |item| self.multiply(item);
        let phases = [
            Phase { num_items: num_panels, task: &quantize },
            Phase { num_items: self.num_items, task: &multiply },
        ];
        if is_small {
            phases.iter().for_each(|phase| (0..phase.num_items).for_each(phase.task));
        } else {
            self.cpu.pool.run_phases(&phases);
        }
    }

    fn quantize(&self, panel: usize) {
        let at = self.segments.partition_point(|segment| segment.first_panel <= panel) - 1;
        let segment = self.segments[at];
        let all = self.job.rows_of(segment.expert);
        let start = all.start + (panel - segment.first_panel) * PANEL;
        let rows = start..all.end.min(start + PANEL);
        for row in rows.clone() {
            // SAFETY: each row is of one panel.
            unsafe { self.job.make_row(self.cpu.simd, row) };
        }
        let rows = rows.map(|row| self.job.x_row(segment.expert, row));
        let Some(order) = self.job.weight(segment.expert).order() else {
            return self.quantize_rows(panel, rows);
        };
        thread_local! {
            static ORDERED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
        }
        ORDERED.with_borrow_mut(|ordered| {
            ordered.clear();
            ordered.reserve(PANEL * order.len());
            ordered.extend(rows.flat_map(|row| order.iter().map(|&k| row[k as usize])));
            self.quantize_rows(panel, ordered.chunks_exact(order.len()));
        });
    }

    fn quantize_rows<'x>(&self, panel: usize, rows: impl Iterator<Item = &'x [f32]> + Clone) {
        for activations in self.activations.iter().flatten() {
            // SAFETY: each panel is one task's.
            unsafe { activations.quantize_panel(self.cpu.simd, panel, rows.clone()) };
        }
    }

    /// Item by item: expert, block of rows, tile.
    fn multiply(&self, item: usize) {
        let at = self.segments.partition_point(|segment| segment.first_item <= item) - 1;
        let segment = self.segments[at];
        let index = item - segment.first_item;
        let (block, tile) = (index / segment.num_tiles, index % segment.num_tiles);
        let all = self.job.rows_of(segment.expert);
        let start = all.start + block * segment.rows_at_once;
        let rows = start..all.end.min(start + segment.rows_at_once);
        let share = self.cpu.pool.share(self.num_items);
        let left = if share.contains(&item) { share.end - item } else { 1 };
        let tiles = tile..segment.num_tiles.min(tile + left);
        let then =
            if left > tiles.len() { self.first_tile(at, item + tiles.len()) } else { NOTHING };
        let weight = self.job.weight(segment.expert);
        let parts: Jobs = jobs(self.cpu, weight);
        let activations = self.activations.each_ref();
        // SAFETY: each task writes rows or columns of its own.
        let out = unsafe { self.job.out(segment.expert) };
        let product = Product {
            activations: activations
                .map(|all| all.as_ref().map(|all| all.after_panels(segment.first_panel))),
            first_row: all.start,
            bias: self.job.bias(segment.expert),
            cpu: self.cpu,
            out: &out,
            x: self.job.rows_of_x(),
            weight,
            parts,
        };
        product.multiply(tiles, &rows, then);
    }

    /// Where the tiles of item `item` begin, which is the first of a block: of segment `at` once more or of the next one.
    fn first_tile(&self, at: usize, item: usize) -> Range<*const u8> {
        let next = self.segments.get(at + 1).filter(|next| next.first_item <= item);
        let segment = next.unwrap_or(&self.segments[at]);
        let parts = self.job.weight(segment.expert).parts();
        let first = parts.iter().find_map(|part| match part {
            Part::Packed(part) => Some(part.tiles_from(0).as_ptr_range()),
            Part::Dense(_) | Part::Cuda(_) => None,
        });
        first.unwrap_or(NOTHING)
    }
}
