//! `attention` on the CPU: units of work over (sequence, KV head, tile of queries), and over ranges of positions for
//! long sequences whose queries fill one tile only (decode), so that one sequence uses all cores.

use std::cell::RefCell;
use std::ops::Range;

use super::own_sequences::OwnSequences;
use super::plan::{Plan, STATE, SequencePlan};
use super::tile::{RANGE, Running, Scratch, Tile, chunk_from, fold, normalise};
use super::{AttentionBatch, AttentionSpec, Branches};
use crate::device::CpuDevice;
use crate::kv_layer::KvLayer;
use crate::tensor::{Tensor, View, ViewMut};

thread_local! {
    static PLAN: RefCell<Plan> = RefCell::default();
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static ROWS: RefCell<OwnSequences> = RefCell::default();
}

/// What positions of a batch lie elsewhere than at their own places.
#[derive(Clone, Copy)]
enum Moved<'a> {
    None,
    /// All of each row: those that it chose.
    Chosen(&'a Tensor),
    /// The last ones of rows that branch.
    Branches(Branches<'a>),
}

impl<'a> Moved<'a> {
    /// Of the sequence whose first row that is.
    fn of(self, sequence: usize, row: usize, context_len: usize) -> Option<(usize, &'a [u32])> {
        match self {
            Self::None => None,
            Self::Chosen(chosen) => {
                Some((0, &chosen.u32()[sequence * chosen.cols()..][..context_len]))
            }
            Self::Branches(branches) => branches.has(&(row..row + 1)).then(|| branches.of_row(row)),
        }
    }
}

pub(super) fn attention_to(
    cpu: &CpuDevice,
    out: &ViewMut,
    q: View,
    kv: &KvLayer,
    batch: &AttentionBatch,
    spec: &AttentionSpec,
    chosen: &Tensor,
) {
    let mut rows = ROWS.take();
    rows.choosing(batch, chosen.cols());
    // Rows that chose all positions have the same bits either way.
    let chooses = |&len: &u32| len as usize > chosen.cols();
    if !batch.context_lens.iter().any(chooses) {
        attention(cpu, out, q, kv, batch, spec, None);
        ROWS.set(rows);
        return;
    }
    run(cpu, out, q, kv, &rows.batch(batch), spec, None, Moved::Chosen(chosen));
    ROWS.set(rows);
}

pub(super) fn attention(
    cpu: &CpuDevice,
    out: &ViewMut,
    q: View,
    kv: &KvLayer,
    batch: &AttentionBatch,
    spec: &AttentionSpec,
    sinks: Option<&[f32]>,
) {
    let Some(branches) = batch.branches else {
        run(cpu, out, q, kv, batch, spec, sinks, Moved::None);
        return;
    };
    let mut rows = ROWS.take();
    rows.branching(batch, &branches);
    run(cpu, out, q, kv, &rows.batch(batch), spec, sinks, Moved::Branches(branches));
    ROWS.set(rows);
}

#[expect(clippy::too_many_arguments, reason = "those of the op, and what its variants add")]
fn run(
    cpu: &CpuDevice,
    out: &ViewMut,
    q: View,
    kv: &KvLayer,
    batch: &AttentionBatch,
    spec: &AttentionSpec,
    sinks: Option<&[f32]>,
    moved: Moved,
) {
    let mut plan = PLAN.take();
    plan.make(cpu.pool.num_threads(), batch, spec);
    let mut partials = std::mem::take(&mut plan.partials);
    let call = Call { cpu, out, q, kv, batch, spec, sinks, moved, plan: &plan };
    let partial_cols = spec.head_dim + STATE;
    let used = &mut partials[..plan.num_partials * partial_cols];
    let shared = ViewMut::from_f32(used, plan.num_partials, partial_cols);
    let run_units = |units: Range<usize>| {
        SCRATCH.with_borrow_mut(|scratch| call.run_units(units, scratch, &shared));
    };
    if plan.is_small {
        run_units(0..plan.num_units);
    } else {
        let per_item = plan.units_per_item;
        cpu.pool.run(plan.num_units.div_ceil(per_item), &|item| {
            run_units(item * per_item..plan.num_units.min((item + 1) * per_item));
        });
    }
    if plan.num_partials > 0 {
        for &sequence in &plan.sequences {
            (0..spec.num_kv_heads).for_each(|kv_head| call.merge(sequence, kv_head, &shared));
        }
    }
    plan.partials = partials;
    PLAN.set(plan);
}

/// What every unit of a call needs.
struct Call<'a> {
    cpu: &'a CpuDevice,
    out: &'a ViewMut<'a>,
    q: View<'a>,
    kv: &'a KvLayer,
    batch: &'a AttentionBatch<'a>,
    spec: &'a AttentionSpec,
    sinks: Option<&'a [f32]>,
    moved: Moved<'a>,
    plan: &'a Plan,
}

/// A tile and the positions that it takes: all that it sees, or one range of them.
struct Unit<'a> {
    plan: SequencePlan,
    /// None: the unit is the whole tile.
    part: Option<usize>,
    tile: Tile<'a>,
    positions: Range<usize>,
}

impl Call<'_> {
    fn run_units(&self, units: Range<usize>, scratch: &mut Scratch, partials: &ViewMut) {
        let end = units.end;
        let mut next = (!units.is_empty()).then(|| self.unit(units.start));
        for index in units {
            let Some(unit) = next else { break };
            next = (index + 1 < end).then(|| self.unit(index + 1));
            self.run_unit(&unit, next.as_ref(), scratch, partials);
        }
    }

    fn unit(&self, index: usize) -> Unit<'_> {
        let sequences = &self.plan.sequences;
        let plan = sequences[sequences.partition_point(|plan| plan.first_unit <= index) - 1];
        let per_head = plan.units_per_head();
        let index = index - plan.first_unit;
        let (kv_head, index) = (index / per_head, index % per_head);
        if plan.num_parts > 0 {
            let tile = self.tile(plan.sequence, kv_head, 0);
            let all = tile.positions();
            let range = (tile.ranges().start + index) * RANGE;
            let positions = range.max(all.start)..all.end.min(range + RANGE);
            return Unit { plan, part: Some(index), tile, positions };
        }
        // The last tile sees the most positions: it goes first, so that threads end together.
        let tile = self.tile(plan.sequence, kv_head, plan.num_tiles - 1 - index);
        let positions = tile.positions();
        Unit { plan, part: None, tile, positions }
    }

    fn run_unit(
        &self,
        unit: &Unit,
        next: Option<&Unit>,
        scratch: &mut Scratch,
        partials: &ViewMut,
    ) {
        let Unit { plan, part, tile, positions } = unit;
        let after =
            next.map(|next| (&next.tile, chunk_from(next.positions.start, &next.positions)));
        scratch.load(tile, self.q);
        if let &Some(part) = part {
            scratch.attend(tile, positions, after);
            self.store_partials(*plan, part, tile, scratch, partials);
            return;
        }
        let ranges = tile.ranges();
        let is_folded = ranges.len() > 1;
        for range in ranges {
            let here = positions.start.max(range * RANGE)..positions.end.min((range + 1) * RANGE);
            let next = match here.end < positions.end {
                true => Some((tile, chunk_from(here.end, positions))),
                false => after.clone(),
            };
            scratch.attend(tile, &here, next);
            if is_folded {
                scratch.fold(tile);
            }
        }
        scratch.finish(tile, self.out, is_folded);
    }

    fn tile(&self, sequence: usize, kv_head: usize, index: usize) -> Tile<'_> {
        let num_queries = self.batch.num_queries(sequence);
        let per_tile = self.plan.queries_per_tile;
        let first_query = index * per_tile;
        let context_len = self.batch.context_lens[sequence] as usize;
        let first_row = self.batch.query_start_loc[sequence] as usize + first_query;
        Tile {
            spec: self.spec,
            sinks: self.sinks,
            simd: self.cpu.simd,
            kv: self.kv,
            kv_head,
            block_table: self.batch.block_table(sequence),
            moved: self.moved.of(sequence, first_row, context_len),
            first_row,
            first_position: context_len - num_queries + first_query,
            num_queries: per_tile.min(num_queries - first_query),
            context_len,
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
    fn merge(&self, plan: SequencePlan, kv_head: usize, partials: &ViewMut) {
        if plan.num_parts == 0 {
            return;
        }
        let tile = self.tile(plan.sequence, kv_head, 0);
        for row in 0..tile.num_rows() {
            // SAFETY: the items are done, and one thread alone merges this sequence and KV head.
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
            let running = tile.with_sink(row, running);
            let (out_row, columns) = tile.place(row);
            // SAFETY: as above.
            let out = unsafe { self.out.columns_f32_shared(out_row, columns) };
            normalise(self.cpu.simd, out, total, running);
        }
    }

    fn partial_index(&self, plan: SequencePlan, part: usize, tile: &Tile, row: usize) -> usize {
        let head = part * self.spec.num_kv_heads + tile.kv_head;
        plan.first_partial + head * tile.num_rows() + row
    }
}
