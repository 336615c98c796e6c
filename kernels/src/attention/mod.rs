//! Attention over paged keys and values: prefill, chunked prefill and decode of many sequences in one call.
//!
//! For the query at position p of a sequence and each position j that it sees (j ≤ p, but for encoders):
//! `s_j = scale · q·k_j` (then `softcap · tanh(s_j / softcap)`), `out = Σ_j softmax(s)_j · v_j`. A sink is one more score
//! of its head, of a position without a value (gpt-oss).
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_pages;
mod branches;
pub mod branches_cases;
pub mod cases;
pub mod chosen_cases;
mod cpu;
mod cuda;
pub(crate) mod kernels;
mod own_sequences;
mod pages;
mod plan;
mod portable;
pub mod reference;
mod tile;

pub use branches::Branches;
pub use cuda::{CUDA_CHOSEN_DIMS, CUDA_HEAD_DIMS, CUDA_LATENT_DIMS, cuda_shared_bytes};

use crate::device::Device;
use crate::indices::Indices;
use crate::kv_layer::KvLayer;
use crate::tensor::{DType, Tensor, View, ViewMut};

/// The sequences of one call. Sequence s owns the query rows `query_start_loc[s]..query_start_loc[s + 1]`; they are
/// its last positions: row i of n has position `context_lens[s] − n + i`.
#[derive(Clone, Copy)]
pub struct AttentionBatch<'a> {
    /// num_seqs + 1 offsets from 0 to the number of rows.
    pub query_start_loc: Indices<'a>,
    /// Positions of each sequence, this step's included; their keys and values are in the pages already.
    pub context_lens: Indices<'a>,
    /// `[num_rows, max_blocks_per_seq]`; entries that no query sees (beyond the context, before the window) may hold
    /// anything.
    pub block_tables: Indices<'a>,
    /// Row of `block_tables` of each sequence.
    pub rows: Indices<'a>,
    pub max_blocks_per_seq: usize,
    /// On a GPU: `Some(n)`: the launches serve every batch of as many rows and sequences, of at most n queries each (a
    /// graph replays them); `None`: this batch.
    pub replayed_with: Option<usize>,
    /// Rows whose past branches.
    pub branches: Option<Branches<'a>>,
}

/// What all sequences share.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSpec {
    pub num_q_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    /// A query sees nothing after its own position.
    pub causal: bool,
    /// A query sees itself and the `window − 1` positions before it; without `causal` those at most window / 2 away on
    /// either side. At least 1.
    pub window: Option<u32>,
    /// A query sees itself and those before it in its chunk, where position / chunk is the same; at least 1. Not with
    /// a window, and only with `causal`.
    pub chunk: Option<u32>,
    /// Above 0.
    pub softcap: Option<f32>,
}

impl AttentionSpec {
    /// First position that the query at `position` sees.
    fn first_visible(&self, position: usize) -> usize {
        match (self.window, self.chunk) {
            (Some(window), _) if !self.causal => position.saturating_sub(window as usize / 2),
            (Some(window), _) => (position + 1).saturating_sub(window as usize),
            (None, Some(chunk)) => position - position % chunk as usize,
            (None, None) => 0,
        }
    }

    /// The end of what the query at `position` sees of `context_len` positions.
    fn end_visible(&self, position: usize, context_len: usize) -> usize {
        match self.window {
            _ if self.causal => position + 1,
            Some(window) => context_len.min(position + window as usize / 2 + 1),
            None => context_len,
        }
    }
}

/// `out`, `q`: `[rows, num_q_heads · head_dim]` activations, `q` rotated; `sinks`: `[1, num_q_heads]` F32. Heads
/// `g·h..g·(h + 1)` read KV head `h`, with
/// g = num_q_heads / num_kv_heads. Where the cache keeps keys alone, each head of `out` is written from the first channel of the
/// values on.
pub fn attention(
    device: &Device,
    out: ViewMut,
    q: View,
    kv: &KvLayer,
    batch: &AttentionBatch,
    spec: &AttentionSpec,
    sinks: Option<&Tensor>,
) {
    check(device, &out, &q, kv, batch, spec);
    if let Some(sinks) = sinks {
        assert_eq!((sinks.rows(), sinks.cols()), (1, spec.num_q_heads), "sinks");
        assert_eq!(sinks.dtype(), DType::F32, "sinks");
    }
    match device {
        Device::Cpu(cpu) => {
            cpu::attention(cpu, &out, q, kv, batch, spec, sinks.map(Tensor::f32));
        }
        Device::Cuda(cuda) => cuda::attention(cuda, &out, &q, kv, batch, spec, sinks),
        Device::Trace(log) => log.push(trace_line(&q, kv, batch, spec, sinks.is_some())),
    }
}

/// As `attention`, of each row over the positions alone that it has in `chosen`: U32 `[at least rows, most]`, of which row r
/// has `min(most, position + 1)`, ascending, as `choose_positions` leaves them. No window, chunk or sink. On CUDA only of
/// a cache that keeps keys alone.
pub fn attention_to(
    device: &Device,
    out: ViewMut,
    q: View,
    kv: &KvLayer,
    batch: &AttentionBatch,
    spec: &AttentionSpec,
    chosen: &Tensor,
) {
    check(device, &out, &q, kv, batch, spec);
    let is_plain = spec.causal && spec.window.is_none() && spec.chunk.is_none();
    assert!(is_plain, "not causal, or a window or chunks");
    assert!(batch.branches.is_none(), "rows that branch choose no positions");
    assert!(chosen.dtype() == DType::U32 && chosen.rows() >= q.rows(), "chosen");
    match device {
        Device::Cpu(cpu) => cpu::attention_to(cpu, &out, q, kv, batch, spec, chosen),
        Device::Cuda(cuda) => cuda::attention_to(cuda, &out, &q, kv, batch, spec, chosen),
        Device::Trace(log) => {
            let line = trace_line(&q, kv, batch, spec, false);
            log.push(format!("{line}, to {}", chosen.cols()));
        }
    }
}

fn check(
    device: &Device,
    out: &ViewMut,
    q: &View,
    kv: &KvLayer,
    batch: &AttentionBatch,
    spec: &AttentionSpec,
) {
    let &AttentionSpec { num_q_heads, num_kv_heads, head_dim, .. } = spec;
    assert_eq!(q.cols(), num_q_heads * head_dim, "q");
    assert_eq!((out.rows(), out.cols()), (q.rows(), q.cols()), "out");
    let activations = device.activation_dtype();
    assert!(out.dtype() == activations && q.dtype() == activations);
    assert_eq!((kv.num_kv_heads(), kv.head_dim()), (num_kv_heads, head_dim), "kv");
    assert!(num_q_heads.is_multiple_of(num_kv_heads), "{num_q_heads} over {num_kv_heads} heads");
    assert!(spec.window != Some(0) && spec.chunk != Some(0), "a window or chunk of 0");
    assert!(spec.window.is_none() || spec.chunk.is_none(), "a window and chunks");
    assert!(spec.causal || spec.chunk.is_none(), "chunks that are not causal");
    assert!(spec.softcap.is_none_or(|softcap| softcap > 0.0), "softcap");

    batch.check(q.rows(), (kv.num_blocks(), kv.block_size()), |query| spec.first_visible(query));
    if let Some(branches) = &batch.branches {
        assert!(spec.causal, "rows that branch see what follows them");
        branches.check(batch);
    }
}

impl<'a> AttentionBatch<'a> {
    /// That the sequences have `num_rows` rows together, and that the blocks exist which their queries see.
    pub(crate) fn check(
        &self,
        num_rows: usize,
        blocks: (usize, usize),
        first_visible: impl Fn(usize) -> usize,
    ) {
        let (num_seqs, starts) = (self.context_lens.len(), &self.query_start_loc);
        assert_eq!((self.rows.len(), starts.len()), (num_seqs, num_seqs + 1), "batch");
        assert_eq!(starts[0], 0, "query_start_loc");
        let num_queries = starts[num_seqs] as usize;
        // Rows of no sequence fill up what is replayed.
        let is_padded = self.replayed_with.is_some() && num_queries <= num_rows;
        assert!(num_queries == num_rows || is_padded, "{num_queries} queries in {num_rows} rows");
        for sequence in 0..num_seqs {
            self.check_sequence(sequence, blocks, &first_visible);
        }
    }

    /// The pages that the queries of one sequence see exist.
    fn check_sequence(
        &self,
        sequence: usize,
        (num_blocks, block_size): (usize, usize),
        first_visible: impl Fn(usize) -> usize,
    ) {
        let (start, end) = (self.query_start_loc[sequence], self.query_start_loc[sequence + 1]);
        assert!(start <= end, "query_start_loc falls");
        let (num_queries, context_len) =
            ((end - start) as usize, self.context_lens[sequence] as usize);
        if num_queries == 0 {
            return;
        }
        assert!(num_queries <= context_len, "{num_queries} queries of {context_len} positions");
        let end = context_len.div_ceil(block_size);
        assert!(end <= self.max_blocks_per_seq, "{end} blocks in a row of the table");
        let rows = start as usize..start as usize + num_queries;
        let branching = self.branches.and_then(|branches| branches.first_position(rows));
        let first = first_visible(branching.unwrap_or(context_len - num_queries)) / block_size;
        let is_inside = |&block: &u32| (block as usize) < num_blocks;
        let seen = &self.block_table(sequence)[first..end];
        assert!(seen.iter().all(is_inside), "a block beyond the cache");
    }

    fn num_queries(&self, sequence: usize) -> usize {
        self.rows_of(sequence).len()
    }

    fn rows_of(&self, sequence: usize) -> std::ops::Range<usize> {
        self.query_start_loc[sequence] as usize..self.query_start_loc[sequence + 1] as usize
    }

    pub(crate) fn block_table(&self, sequence: usize) -> &'a [u32] {
        let start = self.rows[sequence] as usize * self.max_blocks_per_seq;
        &self.block_tables.host()[start..start + self.max_blocks_per_seq]
    }
}

fn trace_line(
    q: &View,
    kv: &KvLayer,
    batch: &AttentionBatch,
    spec: &AttentionSpec,
    has_sinks: bool,
) -> String {
    let (q_heads, kv_heads) = (spec.num_q_heads, spec.num_kv_heads);
    let window = spec.window.map_or(String::new(), |window| format!(", window {window}"));
    let chunk = spec.chunk.map_or(String::new(), |chunk| format!(", chunks of {chunk}"));
    let softcap = spec.softcap.map_or(String::new(), |softcap| format!(", softcap {softcap}"));
    let sinks = if has_sinks { ", sinks" } else { "" };
    let branches = if batch.branches.is_some() { ", branches" } else { "" };
    let both = if spec.causal { "" } else { ", both directions" };
    format!(
        "attention {} rows of {} sequences, {q_heads}/{kv_heads} heads of {}{both}{window}{chunk}{softcap}{sinks}{branches}, {:?}",
        q.rows(),
        batch.context_lens.len(),
        spec.head_dim,
        kv.dtype(),
    )
}
