//! A DFlash drafter (arXiv 2602.06036): layers that guess a block of tokens in one pass.
//!
//! What layers of the model left of a position goes, fused and normalised, straight into each layer's keys and values at that
//! position. The block is the last known token and after it tokens that stand for unknown ones. Its rows see all positions
//! before it and each other, and each says which token stands at its place.

use quire_kernels::{
    AttentionSpec, Device, HeadNorm, LinearWeight, RopeWriteKv, Tensor, attention, gather_rows,
    linear, rms_norm, rope_write_kv,
};

use super::Vocabulary;
use super::draft_head::{HeadWorkspace, num_rows_up_to};
use super::head_spec::HeadSpec;
use super::spec::LayerSpec;
use crate::kv_cache::KvCache;
use crate::layers::{Before, BlockNorm, Mlp, Norm, OutputProjection, Positions};
use crate::step_input::StepInput;
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

/// Weights of a drafter.
pub struct BlockHead {
    spec: HeadSpec,
    fc: LinearWeight,
    state_norm: Norm,
    layers: Vec<BlockLayer>,
    norm: Norm,
    positions: Positions,
}

struct BlockLayer {
    input_norm: Norm,
    q: LinearWeight,
    /// k and v, stacked.
    kv: LinearWeight,
    qk_norm: (Tensor, Tensor),
    attention: AttentionSpec,
    output: OutputProjection,
    mlp_norm: Norm,
    mlp: Mlp,
}

impl BlockHead {
    /// Loads every weight; `max_model_len` positions get a rotation.
    pub fn load(
        spec: HeadSpec,
        loader: &WeightLoader,
        max_model_len: usize,
    ) -> anyhow::Result<Self> {
        let (decoder, hidden) = (&spec.decoder, spec.decoder.hidden_size);
        let norm = |name: &str| {
            let weight = loader.norm(name, hidden, false)?;
            anyhow::Ok(Norm { weight, eps: decoder.norm_eps })
        };
        let layers = decoder.layers.iter().enumerate();
        let layers = layers.map(|(index, layer)| {
            BlockLayer::load(&spec, layer, &loader.scope(format!("blk.{index}.")))
        });
        Ok(Self {
            fc: loader.linear("fc.weight", hidden, spec.feature_size())?,
            state_norm: norm("hidden_norm.weight")?,
            layers: layers.collect::<anyhow::Result<_>>()?,
            norm: norm("output_norm.weight")?,
            positions: Positions::new(decoder, max_model_len, loader.device())?,
            spec,
        })
    }

    pub fn spec(&self) -> &HeadSpec {
        &self.spec
    }

    /// The rows of `step`: from those rows of `ws.features` to keys and values of each layer, which lie from `first_layer`
    /// of `kv` on.
    pub fn follow(
        &self,
        device: &Device,
        ws: &mut HeadWorkspace,
        (kv, first_layer): (&mut KvCache, usize),
        (step, rows): (&StepInput, &[u32]),
    ) {
        let n = step.num_tokens();
        let HeadWorkspace { features, embedded, layer: own, .. } = ws;
        let Norm { weight, eps } = &self.state_norm;
        let features = features.first_rows(num_rows_up_to(rows));
        linear(device, embedded.first_rows_mut(features.rows()), features, &self.fc, None);
        gather_rows(device, own.residual.first_rows_mut(n), embedded.view(), rows.into());
        rms_norm(device, own.hidden.first_rows_mut(n), own.residual.first_rows(n), weight, *eps);
        for (index, layer) in self.layers.iter().enumerate() {
            let columns = 0..layer.kv.out_features();
            let out = own.qkv.first_rows_mut(n).columns(columns.clone());
            linear(device, out, own.hidden.first_rows(n), &layer.kv, None);
            let qkv = own.qkv.first_rows_mut(n).columns(columns);
            let cache = kv.layer_mut(first_layer + index);
            rope_write_kv(device, qkv, cache, &layer.rope_args(0, step, &self.positions));
        }
    }

    /// The rows of `step`, a block of each sequence; what they leave is in `ws.layer.hidden`.
    pub fn forward(
        &self,
        (device, target): (&Device, &Vocabulary),
        ws: &mut HeadWorkspace,
        (kv, first_layer): (&mut KvCache, usize),
        step: &StepInput,
    ) {
        let (n, own) = (step.num_tokens(), &mut ws.layer);
        target.embed(device, own.residual.first_rows_mut(n), step.token_ids);
        let mut before = Before::Embedding;
        for (index, layer) in self.layers.iter().enumerate() {
            BlockNorm { norm: &layer.input_norm, before }.apply(device, own, n);
            before = Before::Block;
            let at = (step, &self.positions);
            layer.attend(device, own, (kv, first_layer + index), at);
            layer.output.project(device, own, n);
            let norm = BlockNorm { norm: &layer.mlp_norm, before };
            layer.mlp.forward(device, own, n, Some(norm));
        }
        BlockNorm { norm: &self.norm, before }.apply(device, own, n);
    }
}

impl BlockLayer {
    fn load(spec: &HeadSpec, layer: &LayerSpec, loader: &WeightLoader) -> anyhow::Result<Self> {
        let (decoder, dims) = (&spec.decoder, layer.attention);
        let (hidden, eps) = (decoder.hidden_size, decoder.norm_eps);
        let norm = |name: &str, len: usize| loader.norm(name, len, false);
        let kv = |name: &str| loader.linear(name, dims.kv_size(), hidden);
        Ok(Self {
            input_norm: Norm { weight: norm("attn_norm.weight", hidden)?, eps },
            q: loader.linear("attn_q.weight", dims.q_size(), hidden)?,
            kv: LinearWeight::stack(vec![kv("attn_k.weight")?, kv("attn_v.weight")?]),
            qk_norm: (
                norm("attn_q_norm.weight", dims.head_dim)?,
                norm("attn_k_norm.weight", dims.head_dim)?,
            ),
            attention: AttentionSpec {
                num_q_heads: dims.num_heads,
                num_kv_heads: dims.num_kv_heads,
                head_dim: dims.head_dim,
                scale: decoder.attention_scale,
                causal: false,
                window: None,
                chunk: None,
                softcap: None,
            },
            output: OutputProjection {
                weight: loader.linear("attn_output.weight", hidden, dims.q_size())?,
                bias: None,
            },
            mlp_norm: Norm { weight: norm("ffn_norm.weight", hidden)?, eps },
            mlp: Mlp::load(decoder, decoder.intermediate_size(), loader)?,
        })
    }

    fn rope_args<'a>(
        &'a self,
        num_q_heads: usize,
        step: &StepInput<'a>,
        positions: &'a Positions,
    ) -> RopeWriteKv<'a> {
        let (q, k) = &self.qk_norm;
        RopeWriteKv {
            head_dim: self.attention.head_dim,
            num_q_heads,
            num_kv_heads: self.attention.num_kv_heads,
            positions: step.positions,
            slot_mapping: step.slot_mapping,
            rope: positions.ropes.first(),
            norm: Some(HeadNorm { q, k, v: None, eps: self.input_norm.eps }),
        }
    }

    /// The rows of `ws.hidden` → `ws.attention_out`.
    fn attend(
        &self,
        device: &Device,
        ws: &mut Workspace,
        (kv, index): (&mut KvCache, usize),
        (step, positions): (&StepInput, &Positions),
    ) {
        let (n, q_size) = (step.num_tokens(), self.q.out_features());
        let both = q_size + self.kv.out_features();
        let Workspace { hidden, qkv, attention_out, .. } = ws;
        for (weight, columns) in [(&self.q, 0..q_size), (&self.kv, q_size..both)] {
            let out = qkv.first_rows_mut(n).columns(columns);
            linear(device, out, hidden.first_rows(n), weight, None);
        }
        let cache = kv.layer_mut(index);
        let args = self.rope_args(self.attention.num_q_heads, step, positions);
        rope_write_kv(device, qkv.first_rows_mut(n).columns(0..both), cache, &args);
        let q = qkv.first_rows(n).columns(0..q_size);
        let out = attention_out.first_rows_mut(n).columns(0..q_size);
        attention(device, out, q, cache, &step.batch(), &self.attention, None);
    }
}
