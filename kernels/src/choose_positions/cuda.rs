//! `choose_positions` on a GPU: scores of all positions that a row sees (`index_scores.cu`), then the best of each row
//! (`choose_positions.cu`), as many rows at a time as there is memory for scores.

use super::IndexSpec;
use crate::attention::AttentionBatch;
use crate::cuda::{Argument, CudaDevice, Grid, Pointer, Structure};
use crate::index_layer::IndexLayer;
use crate::tensor::{DType, Tensor, View};

/// Channels of a head that there are kernels for; fewer are filled up.
const HEAD_DIMS: [usize; 4] = [16, 32, 64, 128];

/// As in `index_scores.cu` and `choose_positions.cu`.
const SCORE_WARPS: usize = 8;
const SCORE_TILE: usize = 16;
const CHOOSE_THREADS: usize = 512;

/// Blocks of scores for each multiprocessor, about: where rows are few, each has several.
const SCORE_BLOCKS: usize = 4;

/// As in `index.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
struct ChooseArgs {
    out: Pointer,
    scores: Pointer,
    queries: Pointer,
    weights: Pointer,
    keys: Pointer,
    query_start_loc: Pointer,
    context_lens: Pointer,
    block_tables: Pointer,
    rows: Pointer,
    first_row: i32,
    num_seqs: i32,
    max_blocks: i32,
    block_size: i32,
    heads: i32,
    head_dim: i32,
    top_k: i32,
    scores_stride: i32,
    queries_stride: i32,
    weights_stride: i32,
}

// SAFETY: nine addresses, then ten numbers of 32 bits, as in the source.
unsafe impl Structure for ChooseArgs {}

pub(super) fn choose_positions(
    cuda: &CudaDevice,
    out: &mut Tensor,
    (queries, weights): (&View, &View),
    keys: &IndexLayer,
    batch: &AttentionBatch,
    spec: &IndexSpec,
) {
    assert_eq!(keys.dtype(), DType::BF16, "pages on CUDA");
    assert!(queries.is_aligned_to(16), "rows of queries are not aligned");
    let kernel_dim = kernel_dim(spec.head_dim);
    let kernel_dim = kernel_dim.unwrap_or_else(|| panic!("an indexer of {spec:?} on CUDA"));
    let rows = queries.rows();
    if rows == 0 {
        return;
    }
    let uploaded = [batch.query_start_loc, batch.context_lens, batch.block_tables, batch.rows]
        .map(|indices| indices.on(cuda));
    let [query_start_loc, context_lens, block_tables, table_rows] =
        [0, 1, 2, 3].map(|index: usize| uploaded[index].pointer());
    let most_positions = batch.max_blocks_per_seq * keys.block_size();
    let rows_at_once = (cuda.scratch().bytes() / (size_of::<f32>() * most_positions)).min(rows);
    assert!(rows_at_once > 0, "scores of {most_positions} positions do not fit scratch memory");
    let int = |number: usize| i32::try_from(number).expect("sizes of a batch fit an int");
    let args = ChooseArgs {
        out: out.view().pointer(),
        scores: cuda.scratch().pointer(),
        queries: queries.pointer(),
        weights: weights.pointer(),
        keys: keys.pointer(),
        query_start_loc,
        context_lens,
        block_tables,
        rows: table_rows,
        first_row: 0,
        num_seqs: int(batch.context_lens.len()),
        max_blocks: int(batch.max_blocks_per_seq),
        block_size: int(keys.block_size()),
        heads: int(spec.num_heads),
        head_dim: int(spec.head_dim),
        top_k: int(spec.top_k),
        scores_stride: int(most_positions),
        queries_stride: int(queries.row_stride()),
        weights_stride: int(weights.row_stride()),
    };
    // What a step sees is known on the device alone: blocks that have nothing to do end at once.
    let most_blocks = most_positions.div_ceil(SCORE_WARPS * SCORE_TILE);
    let kernel = format!("index_scores_{kernel_dim}");
    for first_row in (0..rows).step_by(rows_at_once) {
        let count = rows_at_once.min(rows - first_row);
        let args = ChooseArgs { first_row: int(first_row), ..args };
        let of_row = (SCORE_BLOCKS * cuda.limits().multiprocessors).div_ceil(count);
        let scores = Grid {
            blocks: [count, of_row.min(most_blocks), 1],
            threads: 32 * SCORE_WARPS,
            shared_bytes: scores_bytes(kernel_dim, spec.num_heads),
        };
        cuda.launch(&kernel, scores, &[Argument::structure(&args)]);
        let choose = Grid::new(count, CHOOSE_THREADS);
        cuda.launch("choose_positions", choose, &[Argument::structure(&args)]);
    }
}

/// `ScoreShared` in `index_scores.cu`, and the queries and weights of a row.
fn scores_bytes(kernel_dim: usize, num_heads: usize) -> usize {
    let heads = num_heads.next_multiple_of(16);
    2 * (SCORE_WARPS * SCORE_TILE + heads) * (kernel_dim + 8) + size_of::<f32>() * heads
}

fn kernel_dim(head_dim: usize) -> Option<usize> {
    let fits = |&dim: &usize| head_dim <= dim && head_dim.is_multiple_of(8);
    HEAD_DIMS.into_iter().find(fits)
}

/// Bytes of shared memory that a block needs for such an indexer. None: there is no kernel.
pub fn index_shared_bytes(spec: &IndexSpec) -> Option<usize> {
    kernel_dim(spec.head_dim).map(|dim| scores_bytes(dim, spec.num_heads))
}
