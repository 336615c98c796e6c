//! One tile of `attention`: the query heads of one KV head for some consecutive queries, over ranges of positions.
//!
//! Inside a range the softmax runs online over chunks; ranges are folded in order. Chunks and ranges are cut by
//! position alone, so a query's result is the same in every tile, batch and split.

use std::ops::Range;

use super::AttentionSpec;
use super::kernels::{
    BLOCK_ROWS, CHUNK, ChunkScores, PageMatrix, Product, STRIP, multiply, reads_pages, softmax,
    widen,
};
#[cfg(target_arch = "x86_64")]
use super::kernels::{PageProduct, score_pages, weigh_pages};
#[cfg(target_arch = "x86_64")]
use super::pages::Strips;
use super::pages::{for_each_piece, prefetch};
use super::portable;
use crate::cpu::SimdLevel;
use crate::cpu::math::exp2;
use crate::kv_layer::KvLayer;
use crate::tensor::{View, ViewMut};

/// Positions whose partial result may be computed apart from the others; a multiple of `CHUNK`.
pub(super) const RANGE: usize = 1024;

/// The queries of a tile and what they see.
pub(super) struct Tile<'a> {
    pub spec: &'a AttentionSpec,
    /// A score for each query head.
    pub sinks: Option<&'a [f32]>,
    pub simd: SimdLevel,
    pub kv: &'a KvLayer,
    pub kv_head: usize,
    pub block_table: &'a [u32],
    /// Of a tile of one query: the first position that does not lie at its own place, and where it and those after it do.
    pub moved: Option<(usize, &'a [u32])>,
    /// Row of q (and of the output) of the first query.
    pub first_row: usize,
    pub first_position: usize,
    pub num_queries: usize,
    pub context_len: usize,
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

    /// Positions that some query of the tile sees.
    pub(super) fn positions(&self) -> Range<usize> {
        let last = self.first_position + self.num_queries - 1;
        let end = self.spec.end_visible(last, self.context_len);
        self.spec.first_visible(self.first_position)..end
    }

    /// The ranges that the tile's queries see.
    pub(super) fn ranges(&self) -> Range<usize> {
        let positions = self.positions();
        positions.start / RANGE..positions.end.div_ceil(RANGE)
    }

    /// Positions before this one lie at their own places.
    pub(super) fn first_moved(&self) -> usize {
        self.moved.map_or(usize::MAX, |(first, _)| first)
    }

    /// The softmax of tile row `row` with its head's sink.
    pub(super) fn with_sink(&self, row: usize, running: Running) -> Running {
        let head = self.kv_head * self.group() + row % self.group();
        let Some(sink) = self.sinks.map(|sinks| sinks[head] * std::f32::consts::LOG2_E) else {
            return running;
        };
        let Running { maximum, sum } = running;
        let of_sink = match sink <= maximum {
            true => exp2::<false>(sink - maximum),
            // So that a sink far above all scores leaves nothing of them.
            false => 1.0 / exp2::<false>(maximum - sink),
        };
        Running { maximum, sum: sum + of_sink }
    }

    /// The query and the columns that tile row `row` reads in q and writes in the output.
    pub(super) fn place(&self, row: usize) -> (usize, Range<usize>) {
        let (query, head) = (row / self.group(), self.kv_head * self.group() + row % self.group());
        let head_dim = self.spec.head_dim;
        (self.first_row + query, head * head_dim..(head + 1) * head_dim)
    }
}

/// Positions of a tile that follow those at work, at most a chunk: they are fetched meanwhile.
pub(super) type Ahead<'a> = (&'a Tile<'a>, Range<usize>);

/// Up to a chunk of `positions`, from `start`.
pub(super) fn chunk_from(start: usize, positions: &Range<usize>) -> Range<usize> {
    start..positions.end.min((start / CHUNK + 1) * CHUNK)
}

/// The running softmax of one row; the maximum is a logarithm to base 2.
#[derive(Clone, Copy)]
pub(super) struct Running {
    /// Largest score.
    pub maximum: f32,
    /// Σ 2^(score − maximum).
    pub sum: f32,
}

impl Running {
    const EMPTY: Self = Self { maximum: f32::NEG_INFINITY, sum: 0.0 };
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
    /// As in `ChunkScores`.
    maximum: Vec<f32>,
    sums: Vec<[f32; STRIP]>,
    rescale: Vec<f32>,
    visible: Vec<(u32, u32)>,
    total_running: Vec<Running>,
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
        self.maximum.resize(rows.next_multiple_of(STRIP), f32::NEG_INFINITY);
        self.rescale.resize(rows.next_multiple_of(STRIP), 1.0);
        self.sums.resize(rows, [0.0; STRIP]);
        self.visible.resize(rows, (0, 0));
        self.total_running.clear();
        self.total_running.resize(rows, Running::EMPTY);
        self.queries.reserve(rows * head_dim);
        // Scores are logarithms to base 2; a cap is of natural ones, and changes the base after.
        let scale = tile.spec.scale * tile.spec.softcap.map_or(std::f32::consts::LOG2_E, |_| 1.0);
        let queries = self.queries.all_mut().chunks_exact_mut(head_dim);
        for (row, query) in queries.enumerate() {
            let (q_row, columns) = tile.place(row);
            let source = &q.row_f32(q_row)[columns];
            portable::scale(tile.simd, query, source, scale);
        }
    }

    /// Leaves the partial result of `positions` (those of one range) in `maximum`, `sums` and `weighted`.
    pub(super) fn attend(&mut self, tile: &Tile, positions: &Range<usize>, after: Option<Ahead>) {
        self.maximum.fill(f32::NEG_INFINITY);
        self.sums.fill([0.0; STRIP]);
        self.weighted.all_mut().fill(0.0);
        let (rows, head_dim) = (tile.num_rows(), tile.spec.head_dim);
        let reads_pages = reads_pages(tile.simd, rows, head_dim, tile.kv);
        let mut start = positions.start;
        while start < positions.end {
            let seen = chunk_from(start, positions);
            start = seen.end;
            let next = match start < positions.end {
                true => Some((tile, chunk_from(start, positions))),
                false => after.clone(),
            };
            self.look(tile, seen.start / CHUNK * CHUNK);
            if reads_pages && seen.end <= tile.first_moved() {
                self.attend_pages(tile, seen, next);
            } else {
                self.attend_chunk(tile, seen, next);
            }
        }
    }

    /// Which positions of the chunk at `base` each row sees.
    fn look(&mut self, tile: &Tile, base: usize) {
        let clip = |position: usize| position.saturating_sub(base).min(CHUNK) as u32;
        for (query, rows) in self.visible.chunks_exact_mut(tile.group()).enumerate() {
            let position = tile.first_position + query;
            let end = tile.spec.end_visible(position, tile.context_len);
            rows.fill((clip(tile.spec.first_visible(position)), clip(end)));
        }
    }

    /// Adds a chunk as it lies in the pages, for few rows.
    #[cfg(target_arch = "x86_64")]
    fn attend_pages(&mut self, tile: &Tile, seen: Range<usize>, next: Option<Ahead>) {
        let (head_dim, dtype) = (tile.spec.head_dim, tile.kv.dtype());
        let strips = Strips::of(tile, &seen);
        let next_strips = next.as_ref().map(|(tile, positions)| Strips::of(tile, positions));
        let base = seen.start / CHUNK * CHUNK;
        let seen = seen.start - base..seen.end - base;
        if let Some(next) = &next_strips {
            next.prefetch_values_outside(&seen, head_dim * dtype.size());
        }
        let product = PageProduct {
            strips: &strips,
            next: next_strips.as_ref().unwrap_or(&strips),
            dtype,
            key_stride: tile.kv.block_size(),
            head_dim,
            num_rows: tile.num_rows(),
            seen,
            queries: self.queries.pointer(),
            scores: self.scores.pointer(),
            weighted: self.weighted.pointer(),
            rescale: self.rescale.as_ptr(),
        };
        // SAFETY: `reads_pages` held; `load` made room, and the op's checks found every block that is seen.
        unsafe { score_pages(&product) };
        self.softmax(tile);
        // SAFETY: as above.
        unsafe { weigh_pages(&product) };
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn attend_pages(&mut self, tile: &Tile, seen: Range<usize>, next: Option<Ahead>) {
        self.attend_chunk(tile, seen, next);
    }

    /// Adds a chunk that is widened first, for many rows.
    fn attend_chunk(&mut self, tile: &Tile, seen: Range<usize>, next: Option<Ahead>) {
        let (kv, head_dim) = (tile.kv, tile.spec.head_dim);
        let (dtype, padded) = (kv.dtype(), head_dim.next_multiple_of(STRIP));
        let base = seen.start / CHUNK * CHUNK;
        let (keys_out, values_out) = (self.keys.pointer(), self.values.pointer());
        for_each_piece(tile, seen.clone(), |first, len, [keys, values]| {
            let (stride, column) = (kv.block_size(), first - base);
            let keys = PageMatrix { pointer: keys, dtype, rows: head_dim, cols: len, stride };
            let stride = head_dim;
            let values = PageMatrix { pointer: values, dtype, rows: len, cols: head_dim, stride };
            // SAFETY: pieces lie inside their blocks, and their results inside the chunk that `load` made room for.
            unsafe {
                widen(tile.simd, &keys, keys_out.add(column), CHUNK);
                widen(tile.simd, &values, values_out.add(column * padded), padded);
            }
        });
        if let Some((tile, positions)) = next {
            prefetch(tile, positions);
        }
        for first in (0..tile.num_rows()).step_by(BLOCK_ROWS) {
            self.score(tile, first);
        }
        self.softmax(tile);
        let seen = seen.start - base..seen.end - base;
        for first in (0..tile.num_rows()).step_by(BLOCK_ROWS) {
            self.weigh(tile, first, &seen);
        }
    }

    /// Scores of a block of rows from `first`, in the strips that one of them sees.
    fn score(&mut self, tile: &Tile, first: usize) {
        let num_rows = BLOCK_ROWS.min(tile.num_rows() - first);
        let head_dim = tile.spec.head_dim;
        let (from, to) = (self.visible[first].0, self.visible[first + num_rows - 1].1);
        let from = from as usize / STRIP * STRIP;
        if from >= to as usize {
            return;
        }
        // SAFETY: the rows and columns lie inside the buffers that `load` made.
        unsafe {
            let product = Product {
                a: self.queries.pointer().add(first * head_dim),
                a_stride: head_dim,
                b: self.keys.pointer().add(from),
                b_stride: CHUNK,
                c: self.scores.pointer().add(first * CHUNK + from),
                c_stride: CHUNK,
                num_rows,
                num_cols: (to as usize).next_multiple_of(STRIP) - from,
                depth: head_dim,
                rescale: std::ptr::null(),
            };
            multiply(tile.simd, &product);
        }
    }

    fn softmax(&mut self, tile: &Tile) {
        let mut chunk = ChunkScores {
            scores: self.scores.first_mut(tile.num_rows() * CHUNK),
            visible: &self.visible,
            softcap: tile.spec.softcap,
            maximum: &mut self.maximum,
            sums: &mut self.sums,
            rescale: &mut self.rescale,
        };
        softmax(tile.simd, &mut chunk);
    }

    /// Weighted values of a block of rows from `first`, over the positions that one of them sees: the weights of the
    /// others are 0 and change nothing but the sign of a 0, which `normalise` settles.
    fn weigh(&mut self, tile: &Tile, first: usize, seen: &Range<usize>) {
        let num_rows = BLOCK_ROWS.min(tile.num_rows() - first);
        let padded = tile.spec.head_dim.next_multiple_of(STRIP);
        let from = seen.start.max(self.visible[first].0 as usize);
        let to = seen.end.min(self.visible[first + num_rows - 1].1 as usize);
        if from >= to {
            return;
        }
        // SAFETY: as in `score`; rows `from..to` of the values were widened.
        unsafe {
            let product = Product {
                a: self.scores.pointer().add(first * CHUNK + from),
                a_stride: CHUNK,
                b: self.values.pointer().add(from * padded),
                b_stride: padded,
                c: self.weighted.pointer().add(first * padded),
                c_stride: padded,
                num_rows,
                num_cols: padded,
                depth: to - from,
                rescale: self.rescale.as_ptr().add(first),
            };
            multiply(tile.simd, &product);
        }
    }

    /// The running softmax of tile row `row` over the current range.
    fn running(&self, row: usize) -> Running {
        let mut lanes = self.sums[row];
        for half in [8, 4, 2, 1] {
            (0..half).for_each(|lane| lanes[lane] += lanes[lane + half]);
        }
        Running { maximum: self.maximum[row], sum: lanes[0] }
    }

    /// Folds the current range into the total.
    pub(super) fn fold(&mut self, tile: &Tile) {
        let padded = tile.spec.head_dim.next_multiple_of(STRIP);
        for row in 0..tile.num_rows() {
            let running = self.running(row);
            let columns = row * padded..(row + 1) * padded;
            let part = &self.weighted.all_mut()[columns.clone()];
            let total = &mut self.total.all_mut()[columns];
            fold(total, &mut self.total_running[row], part, running);
        }
    }

    /// The partial result of tile row `row`.
    pub(super) fn partial(&mut self, tile: &Tile, row: usize) -> (Running, &[f32]) {
        let head_dim = tile.spec.head_dim;
        let start = row * head_dim.next_multiple_of(STRIP);
        (self.running(row), &self.weighted.all_mut()[start..start + head_dim])
    }

    /// Writes the folded total, or the current range where there is only one.
    pub(super) fn finish(&mut self, tile: &Tile, out: &ViewMut, is_total: bool) {
        let head_dim = tile.spec.head_dim;
        let padded = head_dim.next_multiple_of(STRIP);
        for row in 0..tile.num_rows() {
            let running = if is_total { self.total_running[row] } else { self.running(row) };
            let running = tile.with_sink(row, running);
            let weighted = if is_total { &mut self.total } else { &mut self.weighted };
            let (out_row, columns) = tile.place(row);
            // SAFETY: one tile alone holds these queries of these heads.
            let out = unsafe { out.columns_f32_shared(out_row, columns) };
            normalise(tile.simd, out, &weighted.all_mut()[row * padded..][..head_dim], running);
        }
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
    let total_factor = exp2::<false>(total_running.maximum - maximum);
    let factor = exp2::<false>(running.maximum - maximum);
    total.iter_mut().zip(part).for_each(|(total, &x)| *total = *total * total_factor + x * factor);
    let sum = total_running.sum * total_factor + running.sum * factor;
    *total_running = Running { maximum, sum };
}

/// `out = weighted / sum`; 0 for a row that saw only scores of −∞. Adding 0 turns −0 into 0: weights of 0 in a tile
/// with later queries may have changed that sign, and nothing else.
pub(super) fn normalise(simd: SimdLevel, out: &mut [f32], weighted: &[f32], running: Running) {
    let factor = if running.sum == 0.0 { 0.0 } else { 1.0 / running.sum };
    portable::scale(simd, out, weighted, factor);
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
