//! The indexer of a layer with latent attention (DeepSeek-V3.2, arXiv 2512.02556): a small attention of its own, which
//! chooses the positions that the layer's attention sees.

use quire_kernels::{
    Device, IndexKeysArgs, IndexLayer, IndexSpec, LinearWeight, RopeWriteKv, Tensor,
    choose_positions, index_keys, linear, rope_queries,
};

use super::Positions;
use crate::models::spec::{DecoderSpec, IndexerSpec};
use crate::step_input::StepInput;
use crate::weights::WeightLoader;
use crate::workspace::{IndexWorkspace, LatentWorkspace};

/// Of the layer norm over keys, whatever other norms have.
const KEY_EPS: f32 = 1e-6;

/// Weights of one layer's indexer.
pub struct Indexer {
    spec: IndexSpec,
    /// Index in `Positions::ropes`.
    rope: usize,
    /// From the vector that the layer's queries are made of.
    queries: LinearWeight,
    /// The key, and after it a weight for each head.
    keys: LinearWeight,
    norm_weight: Tensor,
    norm_bias: Tensor,
}

impl Indexer {
    /// `query_rank`: channels of the vector that queries are made of.
    pub fn load(
        spec: &DecoderSpec,
        indexer: &IndexerSpec,
        query_rank: usize,
        loader: &WeightLoader,
    ) -> anyhow::Result<Self> {
        let IndexSpec { num_heads, head_dim, .. } = indexer.heads;
        let q_size = num_heads * head_dim;
        Ok(Self {
            spec: indexer.heads,
            rope: indexer.rope,
            queries: loader.linear("indexer.attn_q_b.weight", q_size, query_rank)?,
            keys: LinearWeight::stack(vec![
                loader.linear("indexer.attn_k.weight", head_dim, spec.hidden_size)?,
                loader.linear("indexer.proj.weight", num_heads, spec.hidden_size)?,
            ]),
            norm_weight: loader.vector("indexer.k_norm.weight", head_dim)?,
            norm_bias: loader.vector("indexer.k_norm.bias", head_dim)?,
        })
    }

    /// In the order of their use.
    pub fn weights_mut(&mut self) -> [&mut LinearWeight; 2] {
        [&mut self.queries, &mut self.keys]
    }

    /// The rows of the step in `hidden`, and what their queries are made of in `latent.normed` → `latent.index.chosen`,
    /// writing this step's keys into `cache`, whose group `step` is of.
    pub fn choose(
        &self,
        device: &Device,
        (hidden, latent): (&Tensor, &mut LatentWorkspace),
        cache: &mut IndexLayer,
        (step, positions): (&StepInput, &Positions),
    ) {
        let n = step.num_tokens();
        let LatentWorkspace { normed, index, .. } = latent;
        let IndexWorkspace { queries, keys, chosen } =
            index.as_mut().expect("planned for models with an indexer");
        let made_of = normed.first_rows(n).columns(0..self.queries.in_features());
        linear(device, queries.first_rows_mut(n), made_of, &self.queries, None);
        linear(device, keys.first_rows_mut(n), hidden.first_rows(n), &self.keys, None);
        let (rope, head_dim) = (&positions.ropes[self.rope], self.spec.head_dim);
        let args = IndexKeysArgs {
            weight: &self.norm_weight,
            bias: &self.norm_bias,
            eps: KEY_EPS,
            positions: step.positions,
            slot_mapping: step.slot_mapping,
            rope,
        };
        let keys = keys.first_rows(n);
        index_keys(device, cache, keys.columns(0..head_dim), &args);
        let args = RopeWriteKv {
            head_dim,
            num_q_heads: self.spec.num_heads,
            num_kv_heads: 0,
            positions: step.positions,
            slot_mapping: step.slot_mapping,
            rope: Some(rope),
            norm: None,
        };
        rope_queries(device, queries.first_rows_mut(n), &args);
        let weights = keys.columns(head_dim..self.keys.out_features());
        let (queries, batch) = (queries.first_rows(n), step.batch());
        choose_positions(device, chosen, queries, weights, cache, &batch, &self.spec);
    }
}
