//! Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434), absorbed: queries are moved into the space of the latent
//! vector, so that all heads attend to one KV head and the cache holds latent vectors alone.

use quire_kernels::{
    AttentionSpec, CopyHeads, Device, HeadStrides, HeadWeights, Indices, LinearWeight, RopeWriteKv,
    Tensor, attention, attention_to, copy_heads, copy_rows, gather_rows, head_linear, linear,
    rms_norm, rope_write_kv, scale_by_position,
};

use super::{BlockNorm, Indexer, Positions};
use crate::kv_cache::KvCache;
use crate::models::spec::{AttentionDims, DecoderSpec, LatentSpec, LayerSpec, Reach};
use crate::step_input::StepInput;
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

/// Weights of one layer's attention.
pub struct LatentAttention {
    latent: LatentSpec,
    dims: AttentionDims,
    spec: AttentionSpec,
    /// Index in `Positions::ropes`.
    rope: Option<usize>,
    /// Of the residual stream: what queries are made of (or the queries), the latent vector, and the rotated key.
    down: LinearWeight,
    /// Of what queries are made of: its norm and the queries.
    queries: Option<(Tensor, LinearWeight)>,
    reach: Reach,
    /// Where `reach` is `Chosen`.
    indexer: Option<Indexer>,
    latent_norm: Tensor,
    /// For each head, the part of its query that does not rotate, in the space of the latent vector.
    absorb: HeadWeights,
    /// For each head, its value of the latent vector.
    values: HeadWeights,
    output: LinearWeight,
}

impl LatentAttention {
    pub fn load(
        spec: &DecoderSpec,
        layer: &LayerSpec,
        latent: &LatentSpec,
        loader: &WeightLoader,
    ) -> anyhow::Result<Self> {
        let (dims, hidden) = (layer.attention, spec.hidden_size);
        let q_size = dims.num_heads * latent.key_dim();
        let kept = ("attn_kv_a_mqa.weight", latent.kept_dim());
        let (down, queries) = match latent.query_rank {
            None => (
                loader.stacked("attn_qkv_a.weight", &[("attn_q.weight", q_size), kept], hidden)?,
                None,
            ),
            Some(rank) => {
                let parts = [("attn_q_a.weight", rank), kept];
                let norm = loader.vector("attn_q_a_norm.weight", rank)?;
                let queries = loader.linear("attn_q_b.weight", q_size, rank)?;
                (loader.stacked("attn_qkv_a.weight", &parts, hidden)?, Some((norm, queries)))
            }
        };
        let indexer = match (layer.reach, &spec.indexer, latent.query_rank) {
            (Reach::Chosen, Some(indexer), Some(rank)) => {
                Some(Indexer::load(spec, indexer, rank, loader)?)
            }
            _ => None,
        };
        let (absorb, values) = loader.latent(latent, dims.num_heads)?;
        let value_size = dims.num_heads * latent.value_dim;
        Ok(Self {
            latent: *latent,
            dims,
            spec: AttentionSpec {
                num_q_heads: dims.num_heads,
                num_kv_heads: 1,
                head_dim: dims.head_dim,
                scale: spec.attention_scale,
                causal: true,
                window: layer.window,
                chunk: layer.chunk,
                softcap: spec.attention_softcap,
            },
            rope: layer.rope,
            down,
            queries,
            reach: layer.reach,
            indexer,
            latent_norm: loader.vector("attn_kv_a_norm.weight", latent.rank)?,
            absorb,
            values,
            output: loader.linear("attn_output.weight", hidden, value_size)?,
        })
    }

    /// The large ones, in the order of their use.
    pub fn weights_mut(&mut self) -> Vec<&mut LinearWeight> {
        let queries = self.queries.as_mut().map(|(_, queries)| queries);
        let indexer = self.indexer.iter_mut().flat_map(Indexer::weights_mut);
        let first = [&mut self.down].into_iter().chain(queries).chain(indexer);
        first.chain([&mut self.output]).collect()
    }

    /// The rows of the step after `norm` → `ws.attention_out`, writing what layer `index` keeps of them.
    pub fn attend(
        &self,
        device: &Device,
        ws: &mut Workspace,
        norm: BlockNorm,
        (kv, index): (&mut KvCache, usize),
        (step, positions): (&StepInput, &Positions),
    ) {
        let n = step.num_tokens();
        self.project_down(device, ws, norm, n);
        if let Some(indexer) = &self.indexer {
            let Workspace { hidden, latent, .. } = ws;
            let latent = latent.as_mut().expect("planned for models with latent vectors");
            let (cache, group) = kv.index_mut(index);
            let at = (&step.of_group(group), positions);
            indexer.choose(device, (hidden, latent), cache, at);
        }
        self.move_queries(device, ws, n);
        let (columns, cache) = (0..self.dims.qkv_size(), kv.layer_mut(index));
        let args = RopeWriteKv {
            head_dim: self.dims.head_dim,
            num_q_heads: self.dims.num_heads,
            num_kv_heads: 1,
            positions: step.positions,
            slot_mapping: step.slot_mapping,
            rope: self.rope.map(|index| &positions.ropes[index]),
            norm: None,
        };
        rope_write_kv(device, ws.qkv.first_rows_mut(n).columns(columns), cache, &args);
        let q_columns = 0..self.dims.q_size();
        if let Some(factors) = &positions.query_scales {
            let q = ws.qkv.first_rows_mut(n).columns(q_columns.clone());
            scale_by_position(device, q, step.positions, factors);
        }
        let q = ws.qkv.first_rows(n).columns(q_columns.clone());
        let out = ws.attention_out.first_rows_mut(n).columns(q_columns);
        let chosen = ws.latent.as_ref().and_then(|latent| latent.index.as_ref());
        match chosen.filter(|_| self.reach != Reach::All) {
            None => attention(device, out, q, cache, &step.batch(), &self.spec, None),
            Some(index) => {
                let chosen = &index.chosen;
                attention_to(device, out, q, cache, &step.batch(), &self.spec, chosen);
            }
        }
    }

    /// Leaves queries in `latent.queries`, and the key and the value (both the same) in `ws.qkv`.
    fn project_down(&self, device: &Device, ws: &mut Workspace, norm: BlockNorm, n: usize) {
        let Workspace { hidden, residual, block_out, qkv, latent, .. } = ws;
        let buffers = latent.as_mut().expect("planned for models with latent vectors");
        let LatentSpec { rank, rope_dim, norm_eps, .. } = self.latent;
        let input = norm.input(device, (hidden, residual), block_out, n);
        let end = self.down.out_features();
        linear(device, buffers.down.first_rows_mut(n).columns(0..end), input, &self.down, None);
        let down = buffers.down.first_rows(n);
        let first = end - self.latent.kept_dim();
        if let Some((norm, queries)) = &self.queries {
            let normed = buffers.normed.first_rows_mut(n).columns(0..first);
            rms_norm(device, normed, down.columns(0..first), norm, norm_eps);
            let normed = buffers.normed.first_rows(n).columns(0..first);
            let out = buffers.queries.first_rows_mut(n).columns(0..queries.out_features());
            linear(device, out, normed, queries, None);
        } else {
            let out = buffers.queries.first_rows_mut(n).columns(0..first);
            copy_rows(device, out, down.columns(0..first));
        }
        let (latent, rotated) = (first..first + rank, first + rank..end);
        for part in 0..2 {
            let start = self.dims.q_size() + part * self.dims.head_dim;
            let out = qkv.first_rows_mut(n).columns(start..start + rope_dim);
            copy_rows(device, out, down.columns(rotated.clone()));
            let out = qkv.first_rows_mut(n).columns(start + rope_dim..start + self.dims.head_dim);
            rms_norm(device, out, down.columns(latent.clone()), &self.latent_norm, norm_eps);
        }
    }

    /// `latent.queries` → the queries of `ws.qkv`.
    fn move_queries(&self, device: &Device, ws: &mut Workspace, n: usize) {
        let Workspace { qkv, latent, .. } = ws;
        let queries = latent.as_ref().expect("as above").queries.first_rows(n);
        let LatentSpec { nope_dim, rope_dim, .. } = self.latent;
        let (key_dim, head_dim) = (self.latent.key_dim(), self.dims.head_dim);
        let num_heads = self.dims.num_heads;
        let rotated = queries.columns(nope_dim..num_heads * key_dim);
        let heads =
            CopyHeads { num_heads, width: rope_dim, out_stride: head_dim, x_stride: key_dim };
        let out = qkv.first_rows_mut(n).columns(0..self.dims.q_size());
        copy_heads(device, out, rotated, heads);
        let strides = HeadStrides { x: key_dim, out: head_dim };
        let out = qkv.first_rows_mut(n).columns(rope_dim..self.dims.q_size());
        head_linear(device, out, queries, strides, &self.absorb);
    }

    /// `ws.attention_out` → `ws.block_out`.
    pub fn project(&self, device: &Device, ws: &mut Workspace, n: usize) {
        let Workspace { attention_out, latent, block_out, .. } = ws;
        let values = &mut latent.as_mut().expect("as above").queries;
        self.project_from(device, block_out, values, attention_out, n);
    }

    /// As `project`, with only the rows `kept` of the step, and those of `ws.residual`, from here on.
    pub fn project_rows(&self, device: &Device, ws: &mut Workspace, kept: Indices) {
        let (n, q_columns) = (kept.len(), 0..self.dims.q_size());
        gather_rows(device, ws.kept.first_rows_mut(n), ws.residual.view(), kept);
        std::mem::swap(&mut ws.kept, &mut ws.residual);
        // q, k and v have been read.
        let attended = ws.qkv.first_rows_mut(n).columns(q_columns.clone());
        gather_rows(device, attended, ws.attention_out.view().columns(q_columns), kept);
        let Workspace { qkv, latent, block_out, .. } = ws;
        let values = &mut latent.as_mut().expect("as above").queries;
        self.project_from(device, block_out, values, qkv, n);
    }

    fn project_from(
        &self,
        device: &Device,
        out: &mut Tensor,
        values: &mut Tensor,
        attended: &Tensor,
        n: usize,
    ) {
        let (head_dim, value_dim) = (self.dims.head_dim, self.latent.value_dim);
        let strides = HeadStrides { x: head_dim, out: value_dim };
        let x = attended.first_rows(n).columns(self.latent.rope_dim..self.dims.q_size());
        head_linear(device, values.first_rows_mut(n), x, strides, &self.values);
        let x = values.first_rows(n).columns(0..self.output.in_features());
        linear(device, out.first_rows_mut(n), x, &self.output, None);
    }
}
