//! How the work of an `attention` call is cut into items. Results do not depend on it.

use std::cmp::Reverse;

use super::tile::RANGE;
use super::{AttentionBatch, AttentionSpec};

/// Rows (queries times the heads that share a KV head) of a tile, about: many rows share the work of widening a chunk.
const TILE_ROWS: usize = 192;

/// Rows of the smallest tiles that are made so that all threads have some.
const MIN_TILE_ROWS: usize = 48;

/// Tiles a thread, of a batch of long prompts.
const TILES_PER_THREAD: usize = 4;

/// Floats that partial results may take (32 MiB); sequences beyond are not split.
const MAX_PARTIAL_FLOATS: usize = 8 << 20;

/// Floats of a partial result beside the weighted values: maximum and sum.
pub(super) const STATE: usize = 2;

/// What reading a position costs, in rows that are computed with it.
const COST_OF_READING: u64 = 8;

/// Below this cost (some microseconds) the caller does all alone: to wake others takes as long.
const SMALL_COST: u64 = 6000;

/// Items a thread, so that all end together.
const ITEMS_PER_THREAD: usize = 8;

/// Units an item at most; more than one, so that the first positions of a unit come from memory during the one before.
const MAX_UNITS_PER_ITEM: usize = 8;

#[derive(Default)]
pub(super) struct Plan {
    /// Those with the largest units first, so that small ones fill the end. Without queries: absent.
    pub sequences: Vec<SequencePlan>,
    pub queries_per_tile: usize,
    pub num_units: usize,
    /// Units that a thread takes at once.
    pub units_per_item: usize,
    pub is_small: bool,
    /// Rows of `partials` in use.
    pub num_partials: usize,
    pub partials: Vec<f32>,
}

/// Units of a sequence: for each KV head, each tile, each part.
#[derive(Clone, Copy)]
pub(super) struct SequencePlan {
    /// Its number in the batch.
    pub sequence: usize,
    pub first_unit: usize,
    pub num_tiles: usize,
    /// Ranges computed apart; 0: each tile takes all of its ranges.
    pub num_parts: usize,
    /// Row of `partials`: `[part][kv_head][tile row]` from here.
    pub first_partial: usize,
    /// Of the largest tile of one KV head.
    cost: u64,
}

impl SequencePlan {
    pub(super) fn units_per_head(&self) -> usize {
        self.num_tiles * self.num_parts.max(1)
    }
}

impl Plan {
    /// Fills the plan for `num_threads` threads.
    pub(super) fn make(
        &mut self,
        num_threads: usize,
        batch: &AttentionBatch,
        spec: &AttentionSpec,
    ) {
        self.sequences.clear();
        let num_rows = batch.query_start_loc[batch.context_lens.len()] as usize;
        self.queries_per_tile = queries_per_tile(num_threads, num_rows, spec);
        let mut total_cost = 0;
        for sequence in 0..batch.context_lens.len() {
            let num_queries = batch.num_queries(sequence);
            if num_queries == 0 {
                continue;
            }
            let num_tiles = num_queries.div_ceil(self.queries_per_tile);
            let num_positions = batch.seen(sequence, spec).len();
            let rows =
                num_queries.min(self.queries_per_tile) * spec.num_q_heads / spec.num_kv_heads;
            let cost = num_positions as u64 * (rows as u64 + COST_OF_READING);
            total_cost += cost * (num_tiles * spec.num_kv_heads) as u64;
            let (first_unit, num_parts, first_partial) = (0, 0, 0);
            self.sequences.push(SequencePlan {
                sequence,
                first_unit,
                num_tiles,
                num_parts,
                first_partial,
                cost,
            });
        }
        self.sequences.sort_unstable_by_key(|plan| (Reverse(plan.cost), plan.sequence));
        self.is_small = total_cost < SMALL_COST;
        // An item of this cost or more would make the others wait at the end.
        let large = total_cost / (num_threads * ITEMS_PER_THREAD) as u64;
        let may_split = num_threads > 1 && !self.is_small;
        self.number_units(batch, spec, if may_split { large } else { u64::MAX });
        let items = num_threads * ITEMS_PER_THREAD;
        self.units_per_item = (self.num_units / items).clamp(1, MAX_UNITS_PER_ITEM);
    }

    /// Splits tiles that cost more than `large` where they are alone in their sequence (decode), and numbers all units.
    fn number_units(&mut self, batch: &AttentionBatch, spec: &AttentionSpec, large: u64) {
        let partial_cols = spec.head_dim + STATE;
        (self.num_units, self.num_partials) = (0, 0);
        for plan in &mut self.sequences {
            let seen = batch.seen(plan.sequence, spec);
            let num_ranges = seen.end.div_ceil(RANGE) - seen.start / RANGE;
            let num_rows = num_ranges * spec.num_q_heads * batch.num_queries(plan.sequence);
            let is_split = plan.cost > large
                && plan.num_tiles == 1
                && num_ranges > 1
                && (self.num_partials + num_rows) * partial_cols <= MAX_PARTIAL_FLOATS;
            plan.num_parts = if is_split { num_ranges } else { 0 };
            (plan.first_unit, plan.first_partial) = (self.num_units, self.num_partials);
            self.num_units += plan.units_per_head() * spec.num_kv_heads;
            self.num_partials += if is_split { num_rows } else { 0 };
        }
        if self.partials.len() < self.num_partials * partial_cols {
            self.partials.resize(self.num_partials * partial_cols, 0.0);
        }
    }
}

impl AttentionBatch<'_> {
    /// Positions that some query of the sequence sees.
    fn seen(&self, sequence: usize, spec: &AttentionSpec) -> std::ops::Range<usize> {
        let context_len = self.context_lens[sequence] as usize;
        spec.first_visible(context_len - self.num_queries(sequence))..context_len
    }
}

/// Of large tiles, but of smaller ones where those would leave threads without work.
fn queries_per_tile(num_threads: usize, num_queries: usize, spec: &AttentionSpec) -> usize {
    let even = num_queries * spec.num_q_heads / (num_threads * TILES_PER_THREAD);
    let rows = if num_threads == 1 { TILE_ROWS } else { even.clamp(MIN_TILE_ROWS, TILE_ROWS) };
    (rows * spec.num_kv_heads / spec.num_q_heads).max(1)
}
