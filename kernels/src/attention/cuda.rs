//! `attention` on a GPU: sequences with few queries go to `decode.cu`, the others to `prefill.cu`. Both give a row the same
//! bits, so which one is taken is a matter of time alone.

use super::{AttentionBatch, AttentionSpec};
use crate::cuda::{Argument, CudaDevice, Grid, Pointer, Structure};
use crate::kv_layer::KvLayer;
use crate::tensor::{DType, Tensor, View, ViewMut};

/// Channels of a head that there are kernels for.
pub const CUDA_HEAD_DIMS: [usize; 7] = [16, 32, 64, 80, 96, 128, 256];

const THREADS: usize = 128;

/// Packed rows of a decode tile, and of a prefill tile.
const DECODE_ROWS: usize = 16;
const PREFILL_ROWS: usize = 64;

/// Positions of a tile.
const TILE: usize = 64;

/// Channels that a prefill block computes at most.
const PREFILL_WIDTH: usize = 128;

/// Blocks of decode that a multiprocessor runs at once, by registers; and its shared memory that they share.
const MAX_DECODE_BLOCKS: usize = 3;
const SHARED_BYTES: usize = 220 << 10;

/// As in `attention.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
struct AttentionArgs {
    out: Pointer,
    q: Pointer,
    keys: Pointer,
    values: Pointer,
    query_start_loc: Pointer,
    context_lens: Pointer,
    block_tables: Pointer,
    rows: Pointer,
    sinks: Pointer,
    parts: Pointer,
    arrivals: Pointer,
    q_stride: i32,
    out_stride: i32,
    num_seqs: i32,
    max_blocks: i32,
    block_size: i32,
    q_heads: i32,
    kv_heads: i32,
    window: i32,
    chunk: i32,
    decode_queries: i32,
    num_parts: i32,
    scale: f32,
    softcap_log2: f32,
    pad: i32,
}

// SAFETY: eleven addresses, then fourteen numbers of 32 bits, as in the source.
unsafe impl Structure for AttentionArgs {}

pub(super) fn attention(
    cuda: &CudaDevice,
    out: &ViewMut,
    q: &View,
    kv: &KvLayer,
    batch: &AttentionBatch,
    spec: &AttentionSpec,
    sinks: Option<&Tensor>,
) {
    let head_dim = spec.head_dim;
    assert!(CUDA_HEAD_DIMS.contains(&head_dim), "heads of {head_dim} channels on CUDA");
    assert!(spec.causal, "attention in both directions on CUDA");
    assert!(q.is_aligned_to(16) && out.is_aligned_to(8), "rows of queries are not aligned");
    let pages = match kv.dtype() {
        DType::BF16 => "",
        DType::F8E4M3 => "_fp8",
        dtype => panic!("pages of {dtype:?} on CUDA"),
    };
    let group = spec.num_q_heads / spec.num_kv_heads;
    let decode_queries = (DECODE_ROWS / group).max(1);
    let num_seqs = batch.context_lens.len();
    let uploaded = [batch.query_start_loc, batch.context_lens, batch.block_tables, batch.rows]
        .map(|indices| indices.on(cuda));
    let [query_start_loc, context_lens, block_tables, rows] =
        [0, 1, 2, 3].map(|index: usize| uploaded[index].pointer());
    let part_bytes = size_of::<f32>() * DECODE_ROWS * (head_dim + 2);
    let num_parts = (cuda.scratch().bytes() / part_bytes).min(cuda.counters().bytes() / 4);
    // A limit beyond every position is none.
    let limit = |limit: Option<u32>| limit.map_or(0, |limit| i32::try_from(limit).unwrap_or(0));
    let int = |number: usize| i32::try_from(number).expect("sizes of a batch fit an int");
    let (scale, softcap_log2) = scales(spec);
    let args = AttentionArgs {
        out: out.pointer(),
        q: q.pointer(),
        keys: kv.key_pointer(),
        values: kv.value_pointer(),
        query_start_loc,
        context_lens,
        block_tables,
        rows,
        sinks: sinks.map_or(Pointer::NULL, |sinks| sinks.view().pointer()),
        parts: cuda.scratch().pointer(),
        arrivals: cuda.counters().pointer(),
        q_stride: int(q.row_stride()),
        out_stride: int(out.row_stride()),
        num_seqs: int(num_seqs),
        max_blocks: int(batch.max_blocks_per_seq),
        block_size: int(kv.block_size()),
        q_heads: int(spec.num_q_heads),
        kv_heads: int(spec.num_kv_heads),
        window: limit(spec.window),
        chunk: limit(spec.chunk),
        decode_queries: int(decode_queries),
        num_parts: int(num_parts),
        scale,
        softcap_log2,
        pad: 0,
    };
    let (tiles, decodes) = work(batch, q.rows(), group, decode_queries);
    let parts = head_dim.div_ceil(PREFILL_WIDTH);
    let blocks = tiles * spec.num_kv_heads * parts;
    let prefill = format!("attention_prefill{pages}_d{head_dim}");
    launch(cuda, &prefill, blocks, prefill_bytes(head_dim), &args);
    if decodes {
        let bytes = decode_bytes(head_dim, num_seqs);
        let blocks = (SHARED_BYTES / bytes).clamp(1, MAX_DECODE_BLOCKS);
        let blocks = blocks * cuda.limits().multiprocessors;
        launch(cuda, &format!("attention_decode{pages}_d{head_dim}"), blocks, bytes, &args);
    }
}

/// Row tiles of prefill, and whether there is work for decode: of this batch, or at most, where launches are replayed.
fn work(batch: &AttentionBatch, rows: usize, group: usize, decode_queries: usize) -> (usize, bool) {
    let Some(max_queries) = batch.replayed_with else {
        let queries = || (0..batch.context_lens.len()).map(|sequence| batch.num_queries(sequence));
        let row_tiles = |queries: usize| (queries * group).div_ceil(PREFILL_ROWS);
        let tiles = queries().filter(|&n| n > decode_queries).map(row_tiles).sum();
        return (tiles, queries().any(|n| (1..=decode_queries).contains(&n)));
    };
    if max_queries <= decode_queries {
        return (0, true);
    }
    // Every sequence of prefill has at most one tile that is not full.
    let sequences = (rows / (decode_queries + 1)).min(batch.context_lens.len());
    (rows * group / PREFILL_ROWS + sequences, true)
}

/// What q·k is multiplied with, and the softcap, both so that weights are powers of two.
fn scales(spec: &AttentionSpec) -> (f32, f32) {
    use std::f32::consts::LOG2_E;
    match spec.softcap {
        Some(softcap) => (spec.scale / softcap, softcap * LOG2_E),
        None => (spec.scale * LOG2_E, 0.0),
    }
}

fn launch(cuda: &CudaDevice, kernel: &str, blocks: usize, bytes: usize, args: &AttentionArgs) {
    let largest = cuda.limits().shared_bytes;
    assert!(
        bytes <= largest,
        "{kernel} needs {bytes} bytes of shared memory, a block has {largest}"
    );
    let grid = Grid { blocks: [blocks, 1, 1], threads: THREADS, shared_bytes: bytes };
    cuda.launch(kernel, grid, &[Argument::structure(args)]);
}

/// Bytes of `count` rows of `channels` bf16 with their padding.
fn padded_rows(count: usize, channels: usize) -> usize {
    2 * count * (channels + 8)
}

/// `PrefillShared` in `prefill.cu`.
fn prefill_bytes(head_dim: usize) -> usize {
    let width = head_dim.min(PREFILL_WIDTH);
    let merged = 4 * PREFILL_ROWS * width;
    let queries = if head_dim <= PREFILL_WIDTH { 16 } else { padded_rows(PREFILL_ROWS, head_dim) };
    padded_rows(TILE, head_dim) + padded_rows(TILE, width) + merged + queries
}

/// `DecodeShared` in `decode.cu`, and the work list.
fn decode_bytes(head_dim: usize, num_seqs: usize) -> usize {
    let stages = 2 * padded_rows(DECODE_ROWS + 2 * TILE, head_dim);
    let maxima = 4 * (THREADS / 32) * DECODE_ROWS;
    stages + padded_rows(DECODE_ROWS, TILE) + maxima + 16 + 4 * (2 * num_seqs + 1)
}

#[cfg(test)]
mod tests {
    use super::super::cases::Pages;
    use super::super::{AttentionBatch, AttentionSpec, attention};
    use crate::cases::{Kind, in_place, random_activations};
    use crate::device::Device;
    use crate::kv_layer::KvLayer;
    use crate::tensor::DType;

    const CONTEXT: usize = 700;

    /// Rows `first..first + n` of a sequence of `CONTEXT` positions, once in each of `copies` sequences of a batch.
    fn run(
        device: &Device,
        (pages, kv): (&Pages, &KvLayer),
        spec: &AttentionSpec,
        (first, n): (usize, usize),
        copies: usize,
    ) -> Vec<u32> {
        let cols = spec.num_q_heads * spec.head_dim;
        let all = random_activations(61, CONTEXT * cols);
        let queries = all[first * cols..(first + n) * cols].repeat(copies);
        let q = device.tensor(DType::BF16, &queries, copies * n, cols).expect("fits");
        let starts: Vec<u32> = (0..=copies).map(|copy| (copy * n) as u32).collect();
        let (lens, rows) = (vec![(first + n) as u32; copies], vec![0; copies]);
        let whole = pages.batch();
        let batch = AttentionBatch {
            query_start_loc: (&starts).into(),
            context_lens: (&lens).into(),
            rows: (&rows).into(),
            ..whole
        };
        let mut out = vec![f32::NAN; copies * n * cols];
        in_place(device, Kind::Activations, &mut out, (copies * n, cols), |out| {
            attention(device, out, q.view(), kv, &batch, spec, None);
        });
        out.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn chunks_and_batches_change_no_bit() {
        let _emulator = quire_sim::load();
        let device = Device::cuda(0).expect("the emulator is a GPU");
        for (num_q_heads, head_dim, window, softcap, dtype) in [
            (4, 64, None, None, DType::BF16),
            (6, 128, Some(300), None, DType::BF16),
            (2, 256, None, Some(3.0), DType::BF16),
            (4, 32, None, None, DType::F8E4M3),
        ] {
            let spec = AttentionSpec {
                num_q_heads,
                num_kv_heads: 2,
                head_dim,
                scale: 0.3,
                causal: true,
                window,
                chunk: None,
                softcap,
            };
            let pages = Pages::filled(&[(CONTEXT, CONTEXT)], &spec, 16, dtype);
            let kv = pages.kv.copied_to(&device);
            let run = |range, copies| run(&device, (&pages, &kv), &spec, range, copies);
            let whole = run((0, CONTEXT), 1);
            let cols = num_q_heads * head_dim;
            let mut chunked = Vec::new();
            let mut first = 0;
            for n in [1, 63, 2, 1, 300, 1, 5, 64, 262, 1] {
                chunked.extend(run((first, n), 1));
                first += n;
            }
            assert!(whole == chunked, "heads of {head_dim}: chunks are not the whole");
            // Few sequences are split, many are not.
            for (n, copies) in [(1, 2), (1, 40), (2, 3)] {
                let last = &whole[(CONTEXT - n) * cols..];
                assert!(run((CONTEXT - n, n), copies) == last.repeat(copies), "{n} x {copies}");
            }
        }
    }
}
