//! One tile of `attention`: the query heads of one KV head for some consecutive queries, over ranges of positions.
//!
//! Inside a range the softmax runs online over chunks; ranges are folded in order. Chunks and ranges are cut by
//! position alone, so a query's result is the same in every tile, batch and split.

use std::ops::Range;

use super::AttentionSpec;
use super::kernels::{
    CHUNK, ChunkScores, PageRows, Product, Running, STRIP, multiply, multiply_pages, softmax,
    transpose,
};
use crate::cpu::SimdLevel;
use crate::cpu::math::exp;
use crate::kv_layer::KvLayer;
use crate::tensor::{View, ViewMut};

/// Positions whose partial result may be computed apart from the others; a multiple of `CHUNK`.
pub(super) const RANGE: usize = 1024;

/// The queries of a tile and what they see.
pub(super) struct Tile<'a> {
    pub spec: &'a AttentionSpec,
    pub simd: SimdLevel,
    pub kv: &'a KvLayer,
    pub kv_head: usize,
    pub block_table: &'a [u32],
    /// Row of q (and of the output) of the first query.
    pub first_row: usize,
    pub first_position: usize,
    pub num_queries: usize,
}

impl Tile<'_> {
    /// Query heads that share the KV head.
    pub(super) fn group(&self) -> usize {
        self.spec.num_q_heads / self.spec.num_kv_heads
    }

    /// Rows of the tile: query by query, head by head.
    pub(super) fn num_rows(&self) -> usize {
        self.num_queries * self.group()
    }

    fn end(&self) -> usize {
        self.first_position + self.num_queries
    }

    /// The ranges that the tile's queries see.
    pub(super) fn ranges(&self) -> Range<usize> {
        self.spec.first_visible(self.first_position) / RANGE..self.end().div_ceil(RANGE)
    }

    /// The query and the columns that tile row `row` reads in q and writes in the output.
    pub(super) fn place(&self, row: usize) -> (usize, Range<usize>) {
        let (query, head) = (row / self.group(), self.kv_head * self.group() + row % self.group());
        let head_dim = self.spec.head_dim;
        (self.first_row + query, head * head_dim..(head + 1) * head_dim)
    }
}

/// Working memory of one thread; grows to the largest tile once.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[rows][head_dim]`, scaled.
    queries: AlignedBuffer,
    /// `[head_dim][CHUNK]`
    keys: AlignedBuffer,
    /// `[CHUNK][padded head_dim]`
    values: AlignedBuffer,
    /// `[rows][CHUNK]`
    scores: AlignedBuffer,
    /// `[rows][padded head_dim]`: Σ weight · value of the current range.
    weighted: AlignedBuffer,
    /// `[rows][padded head_dim]`: the ranges folded so far.
    total: AlignedBuffer,
    /// Stands for positions outside the tile's view.
    zero_row: AlignedBuffer,
    running: Vec<Running>,
    total_running: Vec<Running>,
    rescale: Vec<f32>,
    visible: Vec<(u32, u32)>,
}

impl Scratch {
    /// Makes room for the tile and loads its queries.
    pub(super) fn load(&mut self, tile: &Tile, q: View) {
        let (rows, head_dim) = (tile.num_rows(), tile.spec.head_dim);
        let padded = head_dim.next_multiple_of(STRIP);
        self.keys.reserve(head_dim * CHUNK);
        self.values.reserve(CHUNK * padded);
        self.scores.reserve(rows * CHUNK);
        self.weighted.reserve(rows * padded);
        self.total.reserve(rows * padded);
        self.zero_row.reserve(head_dim);
        self.running.resize(rows, Running::EMPTY);
        self.total_running.clear();
        self.total_running.resize(rows, Running::EMPTY);
        self.rescale.resize(rows, 1.0);
        self.visible.resize(rows, (0, 0));
        self.queries.reserve(rows * head_dim);
        let queries = self.queries.first_mut(rows * head_dim).chunks_exact_mut(head_dim);
        for (row, query) in queries.enumerate() {
            let (q_row, columns) = tile.place(row);
            let source = &q.row_f32(q_row)[columns];
            query.iter_mut().zip(source).for_each(|(query, &x)| *query = x * tile.spec.scale);
        }
    }

    /// Leaves the partial result of one range in `running` and `weighted`.
    pub(super) fn attend(&mut self, tile: &Tile, range: usize) {
        self.running.fill(Running::EMPTY);
        self.weighted.all_mut().fill(0.0);
        let start = (range * RANGE).max(tile.spec.first_visible(tile.first_position));
        let end = ((range + 1) * RANGE).min(tile.end());
        for base in (start - start % CHUNK..end).step_by(CHUNK) {
            let next = base + CHUNK..end.min(base + 2 * CHUNK);
            self.attend_chunk(
                tile,
                base,
                start.max(base) - base..end.min(base + CHUNK) - base,
                next,
            );
        }
    }

    /// Adds the positions `seen` (relative to `base`) to the running softmax. `next` is fetched meanwhile.
    fn attend_chunk(&mut self, tile: &Tile, base: usize, seen: Range<usize>, next: Range<usize>) {
        let (kv, head_dim) = (tile.kv, tile.spec.head_dim);
        let (rows, padded) = (tile.num_rows(), head_dim.next_multiple_of(STRIP));
        let num_cols = seen.end.next_multiple_of(STRIP);
        let zero_row = self.zero_row.pointer().cast::<u8>().cast_const();
        let [keys, values] = page_rows(tile, base, seen.clone(), zero_row);
        let pages = |pointers| PageRows { pointers, dtype: kv.dtype(), head_dim };
        // SAFETY: every pointer is a row of the cache or the row of zeros; `load` made room for all results.
        unsafe {
            transpose(tile.simd, &pages(&keys[..num_cols]), self.keys.pointer());
            prefetch(tile, next.clone(), 0);
            let scores = Product {
                a: self.queries.pointer(),
                a_stride: head_dim,
                b: self.keys.pointer(),
                b_stride: CHUNK,
                c: self.scores.pointer(),
                c_stride: CHUNK,
                num_rows: rows,
                num_cols,
                depth: head_dim,
                rescale: std::ptr::null(),
            };
            multiply(tile.simd, &scores);
        }
        for (row, visible) in self.visible.iter_mut().enumerate() {
            let position = tile.first_position + row / tile.group();
            let clip = |position: usize| position.saturating_sub(base).min(CHUNK) as u32;
            *visible = (clip(tile.spec.first_visible(position)), clip(position + 1));
        }
        let mut chunk = ChunkScores {
            scores: self.scores.first_mut(rows * CHUNK),
            visible: &self.visible,
            softcap: tile.spec.softcap,
            running: &mut self.running,
            rescale: &mut self.rescale,
        };
        softmax(tile.simd, &mut chunk);
        prefetch(tile, next, 1);
        // SAFETY: as above; the first value lies at row 0 of `values` and has the weight at column `seen.start`.
        unsafe {
            let weighted = Product {
                a: self.scores.pointer().add(seen.start),
                a_stride: CHUNK,
                b: self.values.pointer(),
                b_stride: padded,
                c: self.weighted.pointer(),
                c_stride: padded,
                num_rows: rows,
                num_cols: padded,
                depth: seen.len(),
                rescale: self.rescale.as_ptr(),
            };
            multiply_pages(tile.simd, &pages(&values[seen]), self.values.pointer(), &weighted);
        }
    }

    /// Folds the current range into the total.
    pub(super) fn fold(&mut self, tile: &Tile) {
        let padded = tile.spec.head_dim.next_multiple_of(STRIP);
        let totals = self.total.all_mut().chunks_exact_mut(padded).zip(&mut self.total_running);
        let parts = self.weighted.all_mut().chunks_exact(padded).zip(&self.running);
        for ((total, total_running), (part, &running)) in totals.zip(parts) {
            fold(total, total_running, part, running);
        }
    }

    /// The partial result of tile row `row`.
    pub(super) fn partial(&mut self, tile: &Tile, row: usize) -> (Running, &[f32]) {
        let head_dim = tile.spec.head_dim;
        let start = row * head_dim.next_multiple_of(STRIP);
        (self.running[row], &self.weighted.all_mut()[start..start + head_dim])
    }

    /// Writes the folded total, or the current range where there is only one.
    pub(super) fn finish(&mut self, tile: &Tile, out: &ViewMut, is_total: bool) {
        let head_dim = tile.spec.head_dim;
        let (weighted, running) = if is_total {
            (self.total.all_mut(), &self.total_running)
        } else {
            (self.weighted.all_mut(), &self.running)
        };
        let rows = weighted.chunks_exact(head_dim.next_multiple_of(STRIP)).zip(running);
        for (row, (weighted, running)) in rows.enumerate() {
            let (out_row, columns) = tile.place(row);
            // SAFETY: one tile alone holds these queries of these heads.
            let out = unsafe { out.columns_f32_shared(out_row, columns) };
            normalise(out, &weighted[..head_dim], *running);
        }
    }
}

/// Where the rows of the chunk at `base` lie; `zero_row` stands for positions outside `seen`.
fn page_rows(
    tile: &Tile,
    base: usize,
    seen: Range<usize>,
    zero_row: *const u8,
) -> [[*const u8; CHUNK]; 2] {
    let row_bytes = tile.spec.head_dim * tile.kv.dtype().size();
    let mut rows = [[zero_row; CHUNK]; 2];
    for_each_piece(tile, base + seen.start..base + seen.end, |first, len, starts| {
        for (rows, start) in rows.iter_mut().zip(starts) {
            for (step, row) in rows[first - base..][..len].iter_mut().enumerate() {
                *row = start.wrapping_add(step * row_bytes);
            }
        }
    });
    rows
}

/// Asks for the keys (0) or values (1) of a chunk ahead of their use: blocks lie anywhere, so the hardware cannot guess.
fn prefetch(tile: &Tile, positions: Range<usize>, which: usize) {
    let row_bytes = tile.spec.head_dim * tile.kv.dtype().size();
    for_each_piece(tile, positions, |_, len, starts| {
        for offset in (0..len * row_bytes).step_by(FLOATS_PER_LINE * size_of::<f32>()) {
            prefetch_line(starts[which].wrapping_add(offset));
        }
    });
}

#[cfg(target_arch = "x86_64")]
fn prefetch_line(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch changes no state that a program can see, whatever the address; SSE is always there.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch_line(_address: *const u8) {}

/// Calls `piece(first position, number of positions, [keys, values])` for each run of positions inside one block.
fn for_each_piece(
    tile: &Tile,
    positions: Range<usize>,
    mut piece: impl FnMut(usize, usize, [*const u8; 2]),
) {
    let block_size = tile.kv.block_size();
    let mut position = positions.start;
    while position < positions.end {
        let (index, offset) = (position / block_size, position % block_size);
        let len = (block_size - offset).min(positions.end - position);
        let block = tile.block_table[index] as usize;
        piece(position, len, tile.kv.row_pointers(block, tile.kv_head, offset));
        position += len;
    }
}

/// `total = total ⊕ part`: both are brought to the larger maximum and added. A part without positions changes nothing.
pub(super) fn fold(total: &mut [f32], total_running: &mut Running, part: &[f32], running: Running) {
    if running.maximum == f32::NEG_INFINITY {
        return;
    }
    if total_running.maximum == f32::NEG_INFINITY {
        total.copy_from_slice(part);
        *total_running = running;
        return;
    }
    let maximum = total_running.maximum.max(running.maximum);
    let total_factor = exp::<false>(total_running.maximum - maximum);
    let factor = exp::<false>(running.maximum - maximum);
    total.iter_mut().zip(part).for_each(|(total, &x)| *total = *total * total_factor + x * factor);
    let sum = total_running.sum * total_factor + running.sum * factor;
    *total_running = Running { maximum, sum };
}

/// `out = weighted / sum`; 0 for a row that saw only scores of −∞. Adding 0 turns −0 into 0: weights of 0 in a tile
/// with later queries may have changed that sign, and nothing else.
pub(super) fn normalise(out: &mut [f32], weighted: &[f32], running: Running) {
    let factor = if running.sum == 0.0 { 0.0 } else { 1.0 / running.sum };
    out.iter_mut().zip(weighted).for_each(|(out, &x)| *out = x * factor + 0.0);
}

const FLOATS_PER_LINE: usize = 16;

/// A cache line, so that vectors do not straddle two.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code, reason = "read through a pointer")] [f32; FLOATS_PER_LINE]);

/// Floats aligned to a cache line.
#[derive(Default)]
struct AlignedBuffer {
    lines: Vec<Line>,
    len: usize,
}

impl AlignedBuffer {
    /// Makes the buffer `len` long; what it holds is unspecified, but never uninitialised.
    fn reserve(&mut self, len: usize) {
        let num_lines = len.div_ceil(FLOATS_PER_LINE);
        if self.lines.len() < num_lines {
            self.lines.resize(num_lines, Line([0.0; FLOATS_PER_LINE]));
        }
        self.len = len;
    }

    fn pointer(&mut self) -> *mut f32 {
        self.lines.as_mut_ptr().cast()
    }

    fn all_mut(&mut self) -> &mut [f32] {
        self.first_mut(self.len)
    }

    fn first_mut(&mut self, len: usize) -> &mut [f32] {
        assert!(len <= self.lines.len() * FLOATS_PER_LINE);
        // SAFETY: the lines hold at least `len` initialised floats.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), len) }
    }
}
