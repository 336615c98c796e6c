//! The positions that each query attends to, chosen by an indexer (DeepSeek-V3.2-Exp, "lightning indexer"): the `top_k` of
//! those up to its own with the highest `Σ_h weight[h] · max(0, query[h] · key)`; of equal ones the first.

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

pub use cuda::index_shared_bytes;

use crate::attention::AttentionBatch;
use crate::device::Device;
use crate::index_layer::IndexLayer;
use crate::tensor::{DType, Tensor, View};

/// What all sequences share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexSpec {
    pub num_heads: usize,
    pub head_dim: usize,
    /// Positions of a query; at least 1.
    pub top_k: usize,
}

/// `out`: U32 `[at least rows, top_k]`: row r gets `min(top_k, position + 1)` positions, ascending; what follows them may be
/// anything. `queries`: `[rows, num_heads · head_dim]` activations, rotated; `weights`: `[rows, num_heads]` F32. The blocks of
/// `batch` are those of `keys`, where this step's keys are already.
pub fn choose_positions(
    device: &Device,
    out: &mut Tensor,
    queries: View,
    weights: View,
    keys: &IndexLayer,
    batch: &AttentionBatch,
    spec: &IndexSpec,
) {
    let &IndexSpec { num_heads, head_dim, top_k } = spec;
    let rows = queries.rows();
    assert_eq!(queries.cols(), num_heads * head_dim, "queries");
    assert_eq!((weights.rows(), weights.cols()), (rows, num_heads), "weights");
    assert_eq!((queries.dtype(), weights.dtype()), (device.activation_dtype(), DType::F32));
    assert_eq!((out.dtype(), out.cols()), (DType::U32, top_k), "out");
    assert!(out.rows() >= rows && top_k > 0, "out");
    assert_eq!(keys.head_dim(), head_dim, "keys");
    batch.check(rows, (keys.num_blocks(), keys.block_size()), |_| 0);
    match device {
        Device::Cpu(cpu) => cpu::choose_positions(cpu, out, queries, weights, keys, batch, spec),
        Device::Cuda(cuda) => {
            cuda::choose_positions(cuda, out, (&queries, &weights), keys, batch, spec);
        }
        Device::Trace(log) => log.push(format!(
            "choose_positions {top_k} for {rows} rows of {} sequences, {num_heads} heads of {head_dim}, {:?}",
            batch.context_lens.len(),
            keys.dtype()
        )),
    }
}
