//! `attention` on a GPU: sequences with few queries go to `decode.cu`, the others to `prefill.cu`. Both give a row the same
//! bits, so which one is taken is a matter of time alone.

use super::own_sequences::OwnSequences;
use super::{AttentionBatch, AttentionSpec, Branches};
use crate::cuda::{Argument, CudaDevice, Grid, Pointer, Structure};
use crate::indices::{Indices, UploadedIndices};
use crate::kv_layer::KvLayer;
use crate::tensor::{DType, Tensor, View, ViewMut};

/// Channels of a head that there are kernels for.
pub const CUDA_HEAD_DIMS: [usize; 9] = [16, 24, 32, 64, 80, 96, 128, 256, 512];

/// Wider heads have no kernel for few queries: `prefill.cu` takes all sequences.
const WIDEST_DECODE: usize = 256;

/// Rank and rotated channels of latent vectors that there are kernels for.
pub const CUDA_LATENT_DIMS: [(usize, usize); 3] = [(32, 8), (256, 64), (512, 64)];

/// Those of them for `attention_to`.
pub const CUDA_CHOSEN_DIMS: [(usize, usize); 2] = [(32, 8), (512, 64)];

/// Rows that a launch of `attention_to` takes at most: its work list has an entry for each.
const CHOSEN_ROWS: usize = 1024;

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
    chosen: Pointer,
    place_start_loc: Pointer,
    places: Pointer,
    q_stride: i32,
    out_stride: i32,
    num_seqs: i32,
    max_blocks: i32,
    block_size: i32,
    q_heads: i32,
    kv_heads: i32,
    window: i32,
    chunk: i32,
    both_ways: i32,
    decode_queries: i32,
    num_parts: i32,
    first_row: i32,
    batch_seqs: i32,
    top_k: i32,
    scale: f32,
    softcap_log2: f32,
    pad: i32,
}

// SAFETY: fourteen addresses, then eighteen numbers of 32 bits, as in the source.
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
    let Some(branches) = batch.branches else {
        return attention_of(cuda, (out, q), kv, batch, spec, sinks, [Pointer::NULL; 2]);
    };
    let mut own = OwnSequences::default();
    own.branching(batch, &branches);
    let uploaded = UploadedBranches::new(cuda, &own, &branches);
    let [query_start_loc, context_lens, rows, start_loc, places] = uploaded.pointers;
    let batch = own.batch(batch);
    let batch = AttentionBatch {
        query_start_loc: batch.query_start_loc.at(query_start_loc),
        context_lens: batch.context_lens.at(context_lens),
        rows: batch.rows.at(rows),
        ..batch
    };
    attention_of(cuda, (out, q), kv, &batch, spec, sinks, [start_loc, places]);
}

/// Of a batch in which each row that branches is a sequence of its own, where the places of rows lie.
fn attention_of(
    cuda: &CudaDevice,
    (out, q): (&ViewMut, &View),
    kv: &KvLayer,
    batch: &AttentionBatch,
    spec: &AttentionSpec,
    sinks: Option<&Tensor>,
    [place_start_loc, places]: [Pointer; 2],
) {
    let head_dim = spec.head_dim;
    let group = spec.num_q_heads / spec.num_kv_heads;
    let has_decode = head_dim <= WIDEST_DECODE;
    let decode_queries = if has_decode { (DECODE_ROWS / group).max(1) } else { 0 };
    let uploaded = UploadedBatch::new(cuda, batch);
    let args = AttentionArgs {
        sinks: sinks.map_or(Pointer::NULL, |sinks| sinks.view().pointer()),
        place_start_loc,
        places,
        decode_queries: int(decode_queries),
        num_parts: num_parts(cuda, size_of::<f32>() * DECODE_ROWS * (head_dim + 2), 0),
        ..uploaded.args(cuda, (out, q), kv, batch, spec)
    };
    if let Some(rope_dim) = kv.values_from() {
        return Latent::new(head_dim - rope_dim, rope_dim).launch(cuda, "attention_latent", args);
    }
    assert!(CUDA_HEAD_DIMS.contains(&head_dim), "heads of {head_dim} channels on CUDA");
    let (tiles, decodes) = work(batch, q.rows(), group, decode_queries);
    let parts = head_dim.div_ceil(PREFILL_WIDTH);
    let blocks = tiles * spec.num_kv_heads * parts;
    let pages = match kv.dtype() {
        DType::BF16 => "",
        DType::F8E4M3 => "_fp8",
        dtype => panic!("pages of {dtype:?} on CUDA"),
    };
    let kernel = format!("attention_prefill{pages}_d{head_dim}");
    launch(cuda, (&kernel, THREADS), blocks, prefill_bytes(head_dim), &args);
    if decodes && has_decode {
        let bytes = decode_bytes(head_dim, batch.context_lens.len());
        let blocks = (SHARED_BYTES / bytes).clamp(1, MAX_DECODE_BLOCKS);
        let blocks = blocks * cuda.limits().multiprocessors;
        let kernel = format!("attention_decode{pages}_d{head_dim}");
        launch(cuda, (&kernel, THREADS), blocks, bytes, &args);
    }
}

/// Of a latent cache alone: each query is a sequence of the kernel's, of as many positions as were chosen for it.
pub(super) fn attention_to(
    cuda: &CudaDevice,
    out: &ViewMut,
    q: &View,
    kv: &KvLayer,
    batch: &AttentionBatch,
    spec: &AttentionSpec,
    chosen: &Tensor,
) {
    let rope_dim = kv.values_from().expect("on CUDA positions are chosen of latent vectors alone");
    let dims = (spec.head_dim - rope_dim, rope_dim);
    assert!(CUDA_CHOSEN_DIMS.contains(&dims), "chosen positions of {dims:?} channels on CUDA");
    let uploaded = UploadedBatch::new(cuda, batch);
    let args = AttentionArgs {
        chosen: chosen.view().pointer(),
        batch_seqs: int(batch.context_lens.len()),
        top_k: int(chosen.cols()),
        ..uploaded.args(cuda, (out, q), kv, batch, spec)
    };
    for first_row in (0..q.rows()).step_by(CHOSEN_ROWS) {
        let num_seqs = int(CHOSEN_ROWS.min(q.rows() - first_row));
        let args = AttentionArgs { num_seqs, first_row: int(first_row), ..args };
        Latent::new(dims.0, dims.1).launch(cuda, "attention_to", args);
    }
}

/// The arrays of a batch on the device.
struct UploadedBatch([UploadedIndices; 4]);

impl UploadedBatch {
    fn new(cuda: &CudaDevice, batch: &AttentionBatch) -> Self {
        let arrays = [batch.query_start_loc, batch.context_lens, batch.block_tables, batch.rows];
        Self(arrays.map(|indices| indices.on(cuda)))
    }

    /// What all kernels take.
    fn args(
        &self,
        cuda: &CudaDevice,
        (out, q): (&ViewMut, &View),
        kv: &KvLayer,
        batch: &AttentionBatch,
        spec: &AttentionSpec,
    ) -> AttentionArgs {
        let is_whole = kv.values_from().is_none() || kv.dtype() == DType::BF16;
        assert!(is_whole, "latent pages of {:?} on CUDA", kv.dtype());
        assert!(q.is_aligned_to(16) && out.is_aligned_to(8), "rows of queries are not aligned");
        let [query_start_loc, context_lens, block_tables, rows] =
            [0, 1, 2, 3].map(|index: usize| self.0[index].pointer());
        // A limit beyond every position is none.
        let limit = |limit: Option<u32>| limit.map_or(0, |limit| i32::try_from(limit).unwrap_or(0));
        let (scale, softcap_log2) = scales(spec);
        AttentionArgs {
            out: out.pointer(),
            q: q.pointer(),
            keys: kv.key_pointer(),
            values: kv.value_pointer(),
            query_start_loc,
            context_lens,
            block_tables,
            rows,
            sinks: Pointer::NULL,
            parts: cuda.scratch().pointer(),
            arrivals: cuda.counters().pointer(),
            chosen: Pointer::NULL,
            place_start_loc: Pointer::NULL,
            places: Pointer::NULL,
            q_stride: int(q.row_stride()),
            out_stride: int(out.row_stride()),
            num_seqs: int(batch.context_lens.len()),
            max_blocks: int(batch.max_blocks_per_seq),
            block_size: int(kv.block_size()),
            q_heads: int(spec.num_q_heads),
            kv_heads: int(spec.num_kv_heads),
            window: limit(spec.window),
            chunk: limit(spec.chunk),
            both_ways: i32::from(!spec.causal),
            decode_queries: 0,
            num_parts: 0,
            first_row: 0,
            batch_seqs: 0,
            top_k: 0,
            scale,
            softcap_log2,
            pad: 0,
        }
    }
}

/// The arrays of a batch whose rows branch, in one piece on the device.
struct UploadedBranches {
    pointers: [Pointer; 5],
    _all: UploadedIndices,
}

impl UploadedBranches {
    fn new(cuda: &CudaDevice, own: &OwnSequences, branches: &Branches) -> Self {
        let arrays: [&[u32]; 5] = [
            &own.query_start_loc,
            &own.context_lens,
            &own.rows,
            branches.start_loc,
            branches.places,
        ];
        let all = arrays.concat();
        let uploaded = Indices::from(&all).on(cuda);
        let Pointer(mut next) = uploaded.pointer();
        let pointers = arrays.map(|array| {
            let own = Pointer(next);
            next += size_of_val(array) as u64;
            own
        });
        Self { pointers, _all: uploaded }
    }
}

fn int(number: usize) -> i32 {
    i32::try_from(number).expect("sizes of a batch fit an int")
}

/// Parts of so many bytes that there is memory for, beside what blocks have for themselves.
fn num_parts(cuda: &CudaDevice, part_bytes: usize, own_bytes: usize) -> i32 {
    let fit = cuda.scratch().bytes().saturating_sub(own_bytes) / part_bytes;
    i32::try_from(fit.min(cuda.counters().bytes() / 4)).expect("scratch memory is small")
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

fn launch(
    cuda: &CudaDevice,
    (kernel, threads): (&str, usize),
    blocks: usize,
    bytes: usize,
    args: &AttentionArgs,
) {
    let largest = cuda.limits().shared_bytes;
    assert!(
        bytes <= largest,
        "{kernel} needs {bytes} bytes of shared memory, a block has {largest}"
    );
    let grid = Grid { blocks: [blocks, 1, 1], threads, shared_bytes: bytes };
    cuda.launch(kernel, grid, &[Argument::structure(args)]);
}

/// Bytes of `count` rows of `channels` bf16 with their padding.
fn padded_rows(count: usize, channels: usize) -> usize {
    2 * count * (channels.next_multiple_of(16) + 8)
}

/// `PrefillShared` in `prefill.cu`.
fn prefill_bytes(head_dim: usize) -> usize {
    let width = head_dim.next_multiple_of(16).min(PREFILL_WIDTH);
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

/// Bytes of shared memory that a block needs for heads of so many channels, with `num_seqs` sequences in a step;
/// `values_from`: as `KvLayer::latent`; `is_chosen`: of `attention_to`. None: there is no kernel.
pub fn cuda_shared_bytes(
    head_dim: usize,
    values_from: Option<usize>,
    num_seqs: usize,
    is_chosen: bool,
) -> Option<usize> {
    if let Some(rope_dim) = values_from {
        let dims = (head_dim.checked_sub(rope_dim)?, rope_dim);
        let (kernels, num_seqs) = match is_chosen {
            true => (&CUDA_CHOSEN_DIMS[..], CHOSEN_ROWS),
            false => (&CUDA_LATENT_DIMS[..], num_seqs),
        };
        return kernels.contains(&dims).then(|| Latent::new(dims.0, dims.1).shared_bytes(num_seqs));
    }
    let decode = if head_dim <= WIDEST_DECODE { decode_bytes(head_dim, num_seqs) } else { 0 };
    (!is_chosen && CUDA_HEAD_DIMS.contains(&head_dim)).then(|| prefill_bytes(head_dim).max(decode))
}

const LATENT_THREADS: usize = 256;
const LATENT_ROWS: usize = 64;
const LATENT_TILE: usize = 32;

/// `LatentShape` in `latent.cu`.
struct Latent {
    rank: usize,
    rope_dim: usize,
}

impl Latent {
    fn new(rank: usize, rope_dim: usize) -> Self {
        assert!(CUDA_LATENT_DIMS.contains(&(rank, rope_dim)), "{rank} + {rope_dim} channels");
        Self { rank, rope_dim }
    }

    /// Blocks share the work whatever it is: `attention_latent` and `attention_to` alike.
    fn launch(&self, cuda: &CudaDevice, op: &str, args: AttentionArgs) {
        let bytes = self.shared_bytes(args.num_seqs as usize);
        let blocks = (SHARED_BYTES / bytes).clamp(1, MAX_DECODE_BLOCKS);
        let blocks = blocks * cuda.limits().multiprocessors;
        let num_parts = num_parts(cuda, self.part_bytes(), blocks * self.own_bytes());
        let args = AttentionArgs { decode_queries: i32::MAX, num_parts, ..args };
        let kernel = format!("{op}_{}_{}", self.rank, self.rope_dim);
        launch(cuda, (&kernel, LATENT_THREADS), blocks, bytes, &args);
    }

    /// `LatentShared`, and the work list.
    fn shared_bytes(&self, num_seqs: usize) -> usize {
        let channels = (self.rank + self.rope_dim).next_multiple_of(16);
        let rows = padded_rows(LATENT_ROWS + 2 * LATENT_TILE, channels);
        let weights = padded_rows(LATENT_ROWS, LATENT_TILE);
        let factors = 4 * (2 + 4) * LATENT_ROWS;
        let units = 3 * 72;
        rows + weights + factors + units + 16 + 4 * (2 * num_seqs + 1)
    }

    /// Values of a split, as threads hold them.
    fn value_bytes(&self) -> usize {
        let groups = (self.rank / 16).div_ceil(LATENT_THREADS / 32);
        LATENT_ROWS / 16 * 2 * groups * 16 * LATENT_THREADS
    }

    fn part_bytes(&self) -> usize {
        self.value_bytes() + 8 * LATENT_ROWS
    }

    /// What a block has for itself.
    fn own_bytes(&self) -> usize {
        2 * self.value_bytes()
    }
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
            let kv = pages.kv.copied_to(&device, None);
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
