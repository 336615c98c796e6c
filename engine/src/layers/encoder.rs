//! The blocks of an encoder's layer: attention in both directions, and a feed-forward layer with or without a gate.

use quire_kernels::{
    Activation, AttentionSpec, Device, Gated, Input, KvLayer, LayerNorm, LinearWeight, RopeTable,
    RopeWriteKv, Tensor, activate, attention, linear, rope_write_kv,
};

use crate::models::encoder_spec::{EncoderLayerSpec, EncoderSpec};
use crate::models::spec::AttentionDims;
use crate::step_input::StepInput;
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

/// A layer norm with its weights.
pub struct EncoderNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f32,
}

impl EncoderNorm {
    /// `name.weight` and, where the model has biases, `name.bias`.
    pub fn load(spec: &EncoderSpec, loader: &WeightLoader, name: &str) -> anyhow::Result<Self> {
        let vector = |part| loader.vector(&format!("{name}.{part}"), spec.hidden_size);
        let bias = spec.norm_bias.then(|| vector("bias"));
        Ok(Self { weight: vector("weight")?, bias: bias.transpose()?, eps: spec.norm_eps })
    }

    pub fn args(&self) -> LayerNorm<'_> {
        LayerNorm { weight: &self.weight, bias: self.bias.as_ref(), eps: self.eps }
    }
}

/// Self-attention in which each token sees the whole text, or a window around itself.
pub struct EncoderAttention {
    dims: AttentionDims,
    spec: AttentionSpec,
    /// Index in the model's rotations.
    rope: Option<usize>,
    /// q, k and v, stacked.
    qkv: LinearWeight,
    qkv_bias: Option<Tensor>,
    output: LinearWeight,
    output_bias: Option<Tensor>,
}

impl EncoderAttention {
    pub fn load(
        spec: &EncoderSpec,
        layer: &EncoderLayerSpec,
        loader: &WeightLoader,
    ) -> anyhow::Result<Self> {
        let (dims, hidden) = (spec.attention, spec.hidden_size);
        let (q_size, kv_size) = (dims.q_size(), dims.kv_size());
        let parts =
            [("attn_q.weight", q_size), ("attn_k.weight", kv_size), ("attn_v.weight", kv_size)];
        let biases = [("attn_q.bias", q_size), ("attn_k.bias", kv_size), ("attn_v.bias", kv_size)];
        let qkv_bias = spec.attention_bias.then(|| loader.stacked_bias("attn_qkv.bias", &biases));
        let output_bias = spec.attention_bias.then(|| loader.bias("attn_output.bias", hidden));
        Ok(Self {
            dims,
            spec: AttentionSpec {
                num_q_heads: dims.num_heads,
                num_kv_heads: dims.num_kv_heads,
                head_dim: dims.head_dim,
                scale: 1.0 / (dims.head_dim as f32).sqrt(),
                causal: false,
                window: layer.window,
                chunk: None,
                softcap: None,
            },
            rope: layer.rope,
            qkv: loader.stacked("attn_qkv.weight", &parts, hidden)?,
            qkv_bias: qkv_bias.transpose()?,
            output: loader.linear("attn_output.weight", hidden, q_size)?,
            output_bias: output_bias.transpose()?,
        })
    }

    /// In the order of their use.
    pub fn weights_mut(&mut self) -> [&mut LinearWeight; 2] {
        [&mut self.qkv, &mut self.output]
    }

    /// `ws.hidden` → `ws.block_out`. `cache` holds keys and values of this step alone.
    pub fn forward(
        &self,
        device: &Device,
        ws: &mut Workspace,
        cache: &mut KvLayer,
        (step, ropes): (&StepInput, &[RopeTable]),
    ) {
        let (n, dims) = (step.num_tokens(), self.dims);
        let Workspace { hidden, block_out, qkv, attention_out, .. } = ws;
        let x = hidden.first_rows(n);
        linear(device, qkv.first_rows_mut(n), x, &self.qkv, self.qkv_bias.as_ref());
        let args = RopeWriteKv {
            head_dim: dims.head_dim,
            num_q_heads: dims.num_heads,
            num_kv_heads: dims.num_kv_heads,
            positions: step.positions,
            slot_mapping: step.slot_mapping,
            rope: self.rope.map(|index| &ropes[index]),
            norm: None,
        };
        rope_write_kv(device, qkv.first_rows_mut(n), cache, &args);
        let q = qkv.first_rows(n).columns(0..dims.q_size());
        let attended = attention_out.first_rows_mut(n);
        attention(device, attended, q, cache, &step.batch(), &self.spec, None);
        let (x, bias) = (attention_out.first_rows(n), self.output_bias.as_ref());
        linear(device, block_out.first_rows_mut(n), x, &self.output, bias);
    }
}

/// `down(activation(up(x)))`, or with a gate `down(activation(gate(x)) · up(x))`.
pub struct FeedForward {
    /// With a gate: gate and up, stacked.
    up: LinearWeight,
    up_bias: Option<Tensor>,
    activation: Activation,
    is_gated: bool,
    down: LinearWeight,
    down_bias: Option<Tensor>,
}

impl FeedForward {
    pub fn load(spec: &EncoderSpec, loader: &WeightLoader) -> anyhow::Result<Self> {
        let (hidden, size) = (spec.hidden_size, spec.intermediate_size);
        let gated = [("ffn_gate.weight", size), ("ffn_up.weight", size)];
        let parts = if spec.is_gated { &gated[..] } else { &gated[1..] };
        let gated = [("ffn_gate.bias", size), ("ffn_up.bias", size)];
        let biases = if spec.is_gated { &gated[..] } else { &gated[1..] };
        let up_bias = spec.ffn_bias.then(|| loader.stacked_bias("ffn_up.bias", biases));
        let down_bias = spec.ffn_bias.then(|| loader.bias("ffn_down.bias", hidden));
        Ok(Self {
            // Files that have both in one tensor call it as up alone is called elsewhere.
            up: loader.stacked("ffn_up.weight", parts, hidden)?,
            up_bias: up_bias.transpose()?,
            activation: spec.activation,
            is_gated: spec.is_gated,
            down: loader.linear("ffn_down.weight", hidden, size)?,
            down_bias: down_bias.transpose()?,
        })
    }

    /// In the order of their use.
    pub fn weights_mut(&mut self) -> [&mut LinearWeight; 2] {
        [&mut self.up, &mut self.down]
    }

    /// The first `n` rows of `ws.hidden` → `ws.block_out`.
    pub fn forward(&self, device: &Device, ws: &mut Workspace, n: usize) {
        let Workspace { hidden, block_out, gate_up, activated, .. } = ws;
        let x = hidden.first_rows(n);
        linear(device, gate_up.first_rows_mut(n), x, &self.up, self.up_bias.as_ref());
        let input = if self.is_gated {
            Input::Gated(Gated {
                out: activated.first_rows_mut(n),
                gate_up: gate_up.first_rows(n),
                activation: self.activation,
            })
        } else {
            activate(device, activated.first_rows_mut(n), gate_up.first_rows(n), self.activation);
            Input::Rows(activated.first_rows(n))
        };
        linear(device, block_out.first_rows_mut(n), input, &self.down, self.down_bias.as_ref());
    }
}
