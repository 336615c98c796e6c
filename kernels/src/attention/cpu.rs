//! `attention` on the CPU: work items over (sequence, KV head, tile of queries), and over ranges of positions for the
//! sequences whose queries fill one tile only (decode), so that one long sequence uses all cores.

use std::cell::RefCell;

use super::kernels::Running;
use super::tile::{RANGE, Scratch, Tile, fold, normalise};
use super::{AttentionBatch, AttentionSpec};
use crate::device::CpuDevice;
use crate::kv_layer::KvLayer;
use crate::tensor::{View, ViewMut};

/// Rows (queries times the heads that share a KV head) of a tile, about.
const TILE_ROWS: usize = 64;

/// Floats that partial results may take (32 MiB); sequences beyond are not split.
const MAX_PARTIAL_FLOATS: usize = 8 << 20;

/// Floats of a partial result beside the weighted values: maximum and sum.
const STATE: usize = 2;

pub(super) fn attention(
    cpu: &CpuDevice,
    out: &ViewMut,
    q: View,
    kv: &KvLayer,
    batch: &AttentionBatch,
    spec: &AttentionSpec,
) {
    thread_local! {
        static PLAN: RefCell<Plan> = RefCell::default();
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    let mut plan = PLAN.take();
    plan.make(cpu, batch, spec);
    let mut partials = std::mem::take(&mut plan.partials);
    let call = Call { cpu, out, q, kv, batch, spec, plan: &plan };
    let partial_cols = spec.head_dim + STATE;
    let used = &mut partials[..plan.num_partials * partial_cols];
    let shared = ViewMut::from_f32(used, plan.num_partials, partial_cols);
    cpu.pool.run(plan.num_items, &|item| {
        SCRATCH.with_borrow_mut(|scratch| call.run_item(item, scratch, &shared));
    });
    if plan.num_partials > 0 {
        cpu.pool.run(plan.sequences.len() * spec.num_kv_heads, &|task| {
            call.merge(task / spec.num_kv_heads, task % spec.num_kv_heads, &shared);
        });
    }
    plan.partials = partials;
    PLAN.set(plan);
}

/// How the work of a call is cut into items. Results do not depend on it.
#[derive(Default)]
struct Plan {
    sequences: Vec<SequencePlan>,
    num_items: usize,
    /// Rows of `partials` in use.
    num_partials: usize,
    partials: Vec<f32>,
}

/// Items of a sequence: for each KV head, each tile, each part.
#[derive(Clone, Copy)]
struct SequencePlan {
    first_item: usize,
    num_tiles: usize,
    /// Ranges computed apart; 0: each tile takes all of its ranges.
    num_parts: usize,
    /// Row of `partials`: `[part][kv_head][tile row]` from here.
    first_partial: usize,
}

impl Plan {
    fn make(&mut self, cpu: &CpuDevice, batch: &AttentionBatch, spec: &AttentionSpec) {
        self.sequences.clear();
        (self.num_items, self.num_partials) = (0, 0);
        let partial_cols = spec.head_dim + STATE;
        for sequence in 0..batch.context_lens.len() {
            let num_queries = batch.num_queries(sequence);
            let num_tiles = num_queries.div_ceil(queries_per_tile(spec));
            let context_len = batch.context_lens[sequence] as usize;
            let first_visible = spec.first_visible(context_len.saturating_sub(num_queries));
            let num_ranges = context_len.div_ceil(RANGE) - first_visible / RANGE;
            let num_rows = num_ranges * spec.num_q_heads * num_queries;
            let is_split = num_tiles == 1
                && num_ranges > 1
                && cpu.pool.num_threads() > 1
                && (self.num_partials + num_rows) * partial_cols <= MAX_PARTIAL_FLOATS;
            self.sequences.push(SequencePlan {
                first_item: self.num_items,
                num_tiles,
                num_parts: if is_split { num_ranges } else { 0 },
                first_partial: self.num_partials,
            });
            self.num_items += num_tiles * spec.num_kv_heads * if is_split { num_ranges } else { 1 };
            self.num_partials += if is_split { num_rows } else { 0 };
        }
        if self.partials.len() < self.num_partials * partial_cols {
            self.partials.resize(self.num_partials * partial_cols, 0.0);
        }
    }
}

/// What every item of a call needs.
struct Call<'a> {
    cpu: &'a CpuDevice,
    out: &'a ViewMut<'a>,
    q: View<'a>,
    kv: &'a KvLayer,
    batch: &'a AttentionBatch<'a>,
    spec: &'a AttentionSpec,
    plan: &'a Plan,
}

impl Call<'_> {
    fn run_item(&self, item: usize, scratch: &mut Scratch, partials: &ViewMut) {
        let sequences = &self.plan.sequences;
        let sequence = sequences.partition_point(|sequence| sequence.first_item <= item) - 1;
        let plan = sequences[sequence];
        let items_per_head = plan.num_tiles * plan.num_parts.max(1);
        let index = item - plan.first_item;
        let (kv_head, index) = (index / items_per_head, index % items_per_head);
        if plan.num_parts > 0 {
            let tile = self.tile(sequence, kv_head, 0);
            scratch.load(&tile, self.q);
            scratch.attend(&tile, tile.ranges().start + index);
            self.store_partials(plan, index, &tile, scratch, partials);
            return;
        }
        // The last tile sees the most positions: it goes first, so that threads end together.
        let tile = self.tile(sequence, kv_head, plan.num_tiles - 1 - index);
        scratch.load(&tile, self.q);
        let ranges = tile.ranges();
        let is_folded = ranges.len() > 1;
        for range in ranges {
            scratch.attend(&tile, range);
            if is_folded {
                scratch.fold(&tile);
            }
        }
        scratch.finish(&tile, self.out, is_folded);
    }

    fn tile(&self, sequence: usize, kv_head: usize, index: usize) -> Tile<'_> {
        let num_queries = self.batch.num_queries(sequence);
        let per_tile = queries_per_tile(self.spec);
        let first_query = index * per_tile;
        let context_len = self.batch.context_lens[sequence] as usize;
        Tile {
            spec: self.spec,
            simd: self.cpu.simd,
            kv: self.kv,
            kv_head,
            block_table: self.batch.block_table(sequence),
            first_row: self.batch.query_start_loc[sequence] as usize + first_query,
            first_position: context_len - num_queries + first_query,
            num_queries: per_tile.min(num_queries - first_query),
        }
    }

    fn store_partials(
        &self,
        plan: SequencePlan,
        part: usize,
        tile: &Tile,
        scratch: &mut Scratch,
        partials: &ViewMut,
    ) {
        for row in 0..tile.num_rows() {
            let index = self.partial_index(plan, part, tile, row);
            // SAFETY: one item alone has this sequence, part and KV head.
            let stored = unsafe { partials.row_f32_shared(index) };
            let (running, weighted) = scratch.partial(tile, row);
            let (state, values) = stored.split_at_mut(STATE);
            state.copy_from_slice(&[running.maximum, running.sum]);
            values.copy_from_slice(weighted);
        }
    }

    /// Folds the parts of one sequence and KV head, in order.
    fn merge(&self, sequence: usize, kv_head: usize, partials: &ViewMut) {
        let plan = self.plan.sequences[sequence];
        if plan.num_parts == 0 {
            return;
        }
        let tile = self.tile(sequence, kv_head, 0);
        for row in 0..tile.num_rows() {
            // SAFETY: the items are done, and one task alone merges this sequence and KV head.
            let part = |part| unsafe {
                partials
                    .row_f32_shared(self.partial_index(plan, part, &tile, row))
                    .split_at_mut(STATE)
            };
            let (state, total) = part(0);
            let mut running = Running { maximum: state[0], sum: state[1] };
            for index in 1..plan.num_parts {
                let (state, weighted) = part(index);
                let next = Running { maximum: state[0], sum: state[1] };
                fold(total, &mut running, weighted, next);
            }
            let (out_row, columns) = tile.place(row);
            // SAFETY: as above.
            let out = unsafe { self.out.columns_f32_shared(out_row, columns) };
            normalise(out, total, running);
        }
    }

    fn partial_index(&self, plan: SequencePlan, part: usize, tile: &Tile, row: usize) -> usize {
        let head = part * self.spec.num_kv_heads + tile.kv_head;
        plan.first_partial + head * tile.num_rows() + row
    }
}

fn queries_per_tile(spec: &AttentionSpec) -> usize {
    (TILE_ROWS * spec.num_kv_heads / spec.num_q_heads).max(1)
}
