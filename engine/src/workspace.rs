//! Every buffer a step needs, allocated once at start.

use quire_kernels::{DType, Device, DeviceError, Tensor};

use crate::models::DecoderSpec;
use crate::models::spec::AttentionDims;

/// Named activation buffers; n = tokens of the step, at most `max_num_batched_tokens`.
pub struct Workspace {
    pub residual: Tensor,      // [n, hidden_size]
    pub hidden: Tensor,        // [n, hidden_size]
    pub block_out: Tensor,     // [n, hidden_size]
    pub qkv: Tensor,           // [n, (num_heads + 2 num_kv_heads) head_dim]
    pub attention_out: Tensor, // [n, num_heads head_dim]
    pub gate_up: Tensor,       // [n, 2 intermediate_size]
    pub activated: Tensor,     // [n, intermediate_size]
    pub gathered: Tensor,      // [logits rows, hidden_size]
    pub logits: Tensor,        // [logits rows, vocab_size]
}

/// Rows of logits computed at once; more sampled rows are taken in turns, which changes no bit of any row.
pub const MAX_LOGITS_ROWS: usize = 64;

impl Workspace {
    pub fn new(
        device: &Device,
        spec: &DecoderSpec,
        max_num_batched_tokens: usize,
        max_num_seqs: usize,
    ) -> Result<Self, DeviceError> {
        let [residual, hidden, block_out, qkv, attention_out, gate_up, activated, gathered, logits] =
            Self::shapes(spec, max_num_batched_tokens, max_num_seqs)
                .map(|(rows, cols)| device.allocate(DType::F32, rows, cols));
        Ok(Self {
            residual: residual?,
            hidden: hidden?,
            block_out: block_out?,
            qkv: qkv?,
            attention_out: attention_out?,
            gate_up: gate_up?,
            activated: activated?,
            gathered: gathered?,
            logits: logits?,
        })
    }

    /// Bytes that `new` takes, for planning.
    pub fn num_bytes(
        spec: &DecoderSpec,
        max_num_batched_tokens: usize,
        max_num_seqs: usize,
    ) -> u64 {
        let shapes = Self::shapes(spec, max_num_batched_tokens, max_num_seqs);
        shapes.iter().map(|&(rows, cols)| rows as u64 * cols as u64 * 4).sum()
    }

    /// `[rows, cols]` of each buffer, in the order of the fields.
    fn shapes(spec: &DecoderSpec, num_tokens: usize, max_num_seqs: usize) -> [(usize, usize); 9] {
        let (n, hidden) = (num_tokens, spec.hidden_size);
        let logits_rows = max_num_seqs.clamp(1, MAX_LOGITS_ROWS);
        [
            (n, hidden),
            (n, hidden),
            (n, hidden),
            (n, spec.largest(AttentionDims::qkv_size)),
            (n, spec.largest(AttentionDims::q_size)),
            (n, 2 * spec.intermediate_size),
            (n, spec.intermediate_size),
            (logits_rows, hidden),
            (logits_rows, spec.vocab_size),
        ]
    }
}
