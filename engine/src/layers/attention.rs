//! Self-attention over the paged KV cache.

use std::ops::Range;

use anyhow::ensure;
use quire_kernels::{
    AttentionSpec, Device, HeadNorm, Input, KvLayer, LinearWeight, RopeWriteKv, Tensor, View,
    attention, linear, rope_queries, rope_write_kv, scale_by_position, sigmoid_gate,
};

use super::{BlockNorm, OutputProjection, Positions};
use crate::models::spec::{AttentionDims, DecoderSpec, LayerSpec};
use crate::step_input::StepInput;
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

/// Weights of one layer's attention.
pub struct Attention {
    dims: AttentionDims,
    spec: AttentionSpec,
    /// Index in `Positions::ropes`.
    rope: Option<usize>,
    /// q, k and v, stacked; after them the gates of the output. Of q alone where keys and values are another layer's.
    qkv: LinearWeight,
    reads_another: bool,
    has_gate: bool,
    qkv_bias: Option<Tensor>,
    /// Weights of the q and k head norms.
    qk_norm: Option<(Tensor, Tensor)>,
    scales_queries: bool,
    /// Ones.
    value_norm: Option<Tensor>,
    norm_eps: f32,
    /// `[1, num_heads]`
    sinks: Option<Tensor>,
    pub output: OutputProjection,
}

impl Attention {
    pub fn load(
        spec: &DecoderSpec,
        layer: &LayerSpec,
        loader: &WeightLoader,
    ) -> anyhow::Result<Self> {
        Self::load_of((spec, layer), spec.hidden_size, loader)
    }

    /// As `load`; q, k and v are made of rows of `width` channels.
    pub fn load_of(
        (spec, layer): (&DecoderSpec, &LayerSpec),
        width: usize,
        loader: &WeightLoader,
    ) -> anyhow::Result<Self> {
        let (dims, hidden) = (layer.attention, spec.hidden_size);
        let (q_size, kv_size) = (dims.q_size(), dims.kv_size());
        let v_name = if layer.shares_key_weight { "attn_k.weight" } else { "attn_v.weight" };
        let parts = [("attn_q.weight", q_size), ("attn_k.weight", kv_size), (v_name, kv_size)];
        let reads_another = layer.kv_of.is_some();
        ensure!(
            !reads_another || !(spec.attention_gate || spec.qkv_bias),
            "a layer without keys has gates or biases, which is not supported"
        );
        let qkv = match (reads_another, spec.attention_gate) {
            (true, _) => queries_alone(q_size, width, loader)?,
            (false, true) => gated_qkv(dims, v_name, width, loader)?,
            (false, false) => loader.stacked("attn_qkv.weight", &parts, width)?,
        };
        let bias_parts =
            [("attn_q.bias", q_size), ("attn_k.bias", kv_size), ("attn_v.bias", kv_size)];
        let qkv_bias = spec.qkv_bias.then(|| loader.stacked_bias("attn_qkv.bias", &bias_parts));
        let output_bias =
            spec.attention_output_bias.then(|| loader.bias("attn_output.bias", hidden));
        let sinks = spec.sinks.then(|| loader.vector("attn_sinks.weight", dims.num_heads));
        let head_norm = |name| loader.norm(name, dims.head_dim, spec.zero_centred_norms);
        let qk_norm = match (spec.qk_norm, spec.plain_qk_norm && layer.rope.is_some()) {
            (true, _) if reads_another => {
                Some((head_norm("attn_q_norm.weight")?, loader.ones(dims.head_dim)?))
            }
            (true, _) => Some((head_norm("attn_q_norm.weight")?, head_norm("attn_k_norm.weight")?)),
            // A rotation keeps the norm, so before it is as good as after.
            (false, true) => Some((loader.ones(dims.head_dim)?, loader.ones(dims.head_dim)?)),
            (false, false) => None,
        };
        let query_scale = spec.query_scale.filter(|s| !s.without_rope || layer.rope.is_none());
        Ok(Self {
            dims,
            spec: AttentionSpec {
                num_q_heads: dims.num_heads,
                num_kv_heads: dims.num_kv_heads,
                head_dim: dims.head_dim,
                scale: spec.attention_scale,
                causal: true,
                window: layer.window,
                chunk: layer.chunk,
                softcap: spec.attention_softcap,
            },
            rope: layer.rope,
            qkv,
            reads_another,
            has_gate: spec.attention_gate,
            qkv_bias: qkv_bias.transpose()?,
            qk_norm,
            scales_queries: query_scale.is_some(),
            value_norm: spec.value_norm.then(|| loader.ones(dims.head_dim)).transpose()?,
            norm_eps: spec.norm_eps,
            sinks: sinks.transpose()?,
            output: OutputProjection {
                weight: loader.linear("attn_output.weight", hidden, q_size)?,
                bias: output_bias.transpose()?,
            },
        })
    }

    /// In the order of their use.
    pub fn weights_mut(&mut self) -> [&mut LinearWeight; 2] {
        [&mut self.qkv, &mut self.output.weight]
    }

    /// The rows of the step after `norm` → `ws.attention_out`, writing this step's keys and values into `cache`.
    pub fn attend(
        &self,
        device: &Device,
        ws: &mut Workspace,
        norm: BlockNorm,
        cache: &mut KvLayer,
        (step, positions): (&StepInput, &Positions),
    ) {
        let n = step.num_tokens();
        let Workspace { hidden, residual, block_out, qkv, .. } = ws;
        let input = norm.input(device, (hidden, residual), block_out, n);
        self.project_input(device, qkv, input, n);
        self.attend_projected(device, ws, cache, (step, positions));
    }

    /// As `attend`, of rows that are not those of `ws`.
    pub fn attend_rows(
        &self,
        device: &Device,
        ws: &mut Workspace,
        x: View,
        cache: &mut KvLayer,
        at: (&StepInput, &Positions),
    ) {
        self.project_input(device, &mut ws.qkv, Input::Rows(x), x.rows());
        self.attend_projected(device, ws, cache, at);
    }

    fn project_input(&self, device: &Device, qkv: &mut Tensor, input: Input, n: usize) {
        let columns = 0..if self.has_gate { self.gate_columns().end } else { self.qkv_size() };
        let projected = qkv.first_rows_mut(n).columns(columns);
        linear(device, projected, input, &self.qkv, self.qkv_bias.as_ref());
    }

    /// Columns of q, k and v, where there are k and v.
    fn qkv_size(&self) -> usize {
        if self.reads_another { self.dims.q_size() } else { self.dims.qkv_size() }
    }

    fn gate_columns(&self) -> Range<usize> {
        self.dims.qkv_size()..self.dims.qkv_size() + self.dims.q_size()
    }

    fn attend_projected(
        &self,
        device: &Device,
        ws: &mut Workspace,
        cache: &mut KvLayer,
        (step, positions): (&StepInput, &Positions),
    ) {
        let (n, dims) = (step.num_tokens(), self.dims);
        let (v, eps) = (self.value_norm.as_ref(), self.norm_eps);
        let norm = self.qk_norm.as_ref().map(|(q, k)| HeadNorm { q, k, v, eps });
        let args = RopeWriteKv {
            head_dim: dims.head_dim,
            num_q_heads: dims.num_heads,
            num_kv_heads: if self.reads_another { 0 } else { dims.num_kv_heads },
            positions: step.positions,
            slot_mapping: step.slot_mapping,
            rope: self.rope.map(|index| &positions.ropes[index]),
            norm,
        };
        let qkv = ws.qkv.first_rows_mut(n).columns(0..self.qkv_size());
        match self.reads_another {
            true => rope_queries(device, qkv, &args),
            false => rope_write_kv(device, qkv, cache, &args),
        }
        if let Some(factors) = positions.query_scales.as_ref().filter(|_| self.scales_queries) {
            let q = ws.qkv.first_rows_mut(n).columns(0..dims.q_size());
            scale_by_position(device, q, step.positions, factors);
        }
        let q = ws.qkv.first_rows(n).columns(0..dims.q_size());
        let out = ws.attention_out.first_rows_mut(n).columns(0..dims.q_size());
        attention(device, out, q, cache, &step.batch(), &self.spec, self.sinks.as_ref());
        if self.has_gate {
            let out = ws.attention_out.first_rows_mut(n).columns(0..dims.q_size());
            sigmoid_gate(device, out, ws.qkv.first_rows(n).columns(self.gate_columns()));
        }
    }
}

/// q from files that may have weights of k and v too, which nothing reads.
fn queries_alone(
    q_size: usize,
    hidden: usize,
    loader: &WeightLoader,
) -> anyhow::Result<LinearWeight> {
    for name in ["attn_k.weight", "attn_v.weight", "attn_k_norm.weight"] {
        loader.leave_out(name);
    }
    loader.linear("attn_q.weight", q_size, hidden)
}

/// q, k, v and gates from files that have, head by head, q and its gate in one weight.
fn gated_qkv(
    dims: AttentionDims,
    v_name: &str,
    hidden: usize,
    loader: &WeightLoader,
) -> anyhow::Result<LinearWeight> {
    let (head_dim, kv_size) = (dims.head_dim, dims.kv_size());
    let shard = loader.shard();
    let num_heads = dims.num_heads * shard.num_ranks;
    let half = |first: usize| {
        let start = move |head: usize| 2 * head * head_dim + first;
        let rows = shard.range(num_heads).map(move |head| start(head)..start(head) + head_dim);
        loader.linear_of_rows("attn_q.weight", (2 * num_heads * head_dim, hidden), rows)
    };
    Ok(LinearWeight::stack(vec![
        half(0)?,
        loader.linear("attn_k.weight", kv_size, hidden)?,
        loader.linear(v_name, kv_size, hidden)?,
        half(head_dim)?,
    ]))
}
