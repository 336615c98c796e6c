//! Self-attention over the paged KV cache.

use quire_kernels::{
    AttentionSpec, Device, HeadNorm, KvLayer, LinearWeight, RopeTable, RopeWriteKv, Tensor,
    attention, linear, rope_write_kv,
};

use crate::models::spec::{AttentionDims, DecoderSpec};
use crate::step_input::StepInput;
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

/// Weights of one layer's attention.
pub struct Attention {
    dims: AttentionDims,
    /// q, k and v, stacked.
    qkv: LinearWeight,
    qkv_bias: Option<Tensor>,
    /// Weights of the q and k head norms.
    qk_norm: Option<(Tensor, Tensor)>,
    norm_eps: f32,
    output: LinearWeight,
}

impl Attention {
    pub fn load(spec: &DecoderSpec, loader: &WeightLoader) -> anyhow::Result<Self> {
        let (dims, hidden) = (spec.attention, spec.hidden_size);
        let (q_size, kv_size) = (dims.q_size(), dims.kv_size());
        let qkv = loader.stacked(
            &[("attn_q.weight", q_size), ("attn_k.weight", kv_size), ("attn_v.weight", kv_size)],
            hidden,
        )?;
        let qkv_bias = match spec.qkv_bias {
            true => Some(loader.stacked_vector(&[
                ("attn_q.bias", q_size),
                ("attn_k.bias", kv_size),
                ("attn_v.bias", kv_size),
            ])?),
            false => None,
        };
        let qk_norm = match spec.qk_norm {
            true => Some((
                loader.vector("attn_q_norm.weight", dims.head_dim)?,
                loader.vector("attn_k_norm.weight", dims.head_dim)?,
            )),
            false => None,
        };
        let output = loader.linear("attn_output.weight", hidden, q_size)?;
        Ok(Self { dims, qkv, qkv_bias, qk_norm, norm_eps: spec.norm_eps, output })
    }

    /// `ws.hidden` → `ws.block_out`, writing this step's keys and values into `cache`.
    pub fn forward(
        &self,
        device: &Device,
        ws: &mut Workspace,
        cache: &mut KvLayer,
        step: &StepInput,
        rope: &RopeTable,
    ) {
        let n = step.num_tokens();
        let dims = self.dims;
        let qkv = ws.qkv.first_rows_mut(n);
        linear(device, qkv, ws.hidden.first_rows(n), &self.qkv, self.qkv_bias.as_ref());
        let norm = self.qk_norm.as_ref().map(|(q, k)| HeadNorm { q, k, eps: self.norm_eps });
        let args = RopeWriteKv {
            head_dim: dims.head_dim,
            num_q_heads: dims.num_heads,
            num_kv_heads: dims.num_kv_heads,
            positions: step.positions,
            slot_mapping: step.slot_mapping,
            rope: Some(rope),
            norm,
        };
        rope_write_kv(device, ws.qkv.first_rows_mut(n), cache, &args);
        let spec = AttentionSpec {
            num_q_heads: dims.num_heads,
            num_kv_heads: dims.num_kv_heads,
            head_dim: dims.head_dim,
            scale: 1.0 / (dims.head_dim as f32).sqrt(),
            window: None,
            softcap: None,
        };
        let q = ws.qkv.first_rows(n).columns(0..dims.q_size());
        attention(device, ws.attention_out.first_rows_mut(n), q, cache, &step.batch(), &spec);
        let attention_out = ws.attention_out.first_rows(n);
        linear(device, ws.block_out.first_rows_mut(n), attention_out, &self.output, None);
    }
}
