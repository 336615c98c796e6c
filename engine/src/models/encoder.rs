//! The generic encoder: one forward pass for every architecture an `EncoderSpec` can describe.

use quire_kernels::{
    DType, Device, LinearWeight, RopeTable, Tensor, add_layer_norm, add_rows, embedding,
    layer_norm, post_layer_norm,
};

use super::encoder_spec::{EncoderLayerSpec, EncoderSpec, NormPlace};
use super::rank_head::RankHead;
use crate::kv_cache::KvCache;
use crate::layers::{EncoderAttention, EncoderNorm, FeedForward, rope_tables};
use crate::step_input::StepInput;
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

/// Weights of a whole model on one device.
pub struct Encoder {
    spec: EncoderSpec,
    embedding: LinearWeight,
    /// `[positions or 1, hidden_size]`: what is added to the embeddings, the row of the first kind of token included.
    added: Option<Tensor>,
    embedding_norm: EncoderNorm,
    layers: Vec<EncoderLayer>,
    final_norm: Option<EncoderNorm>,
    ropes: Vec<RopeTable>,
    rank_head: Option<RankHead>,
}

struct EncoderLayer {
    attention: EncoderAttention,
    /// Behind the attention, or before it; none before the first.
    attention_norm: Option<EncoderNorm>,
    ffn: FeedForward,
    ffn_norm: EncoderNorm,
}

impl Encoder {
    /// Loads every weight; `max_model_len` positions get a rotation.
    pub fn load(
        spec: EncoderSpec,
        loader: &WeightLoader,
        max_model_len: usize,
    ) -> anyhow::Result<Self> {
        let mut layers = Vec::with_capacity(spec.num_layers());
        for (index, layer) in spec.layers.iter().enumerate() {
            let scope = loader.scope(format!("blk.{index}."));
            layers.push(EncoderLayer::load(&spec, (index, layer), &scope)?);
            loader.progress(index + 1, spec.num_layers());
        }
        let has_final_norm = spec.norms == NormPlace::Before;
        let final_norm = has_final_norm.then(|| EncoderNorm::load(&spec, loader, "output_norm"));
        let ropes = match loader.is_shape_only() {
            true => {
                let empty = |dim, style| RopeTable::shape_only(dim, max_model_len, style);
                spec.ropes.iter().map(|rope| empty(rope.rotary_dim, rope.style)).collect()
            }
            false => rope_tables(&spec.ropes, max_model_len, loader.device())?,
        };
        let rank_head = spec.rank_head.map(|head| RankHead::load(head, &spec, loader));
        let mut encoder = Self {
            embedding: loader.linear("token_embd.weight", spec.vocab_size, spec.hidden_size)?,
            added: added_rows(&spec, loader)?,
            embedding_norm: EncoderNorm::load(&spec, loader, "token_embd_norm")?,
            layers,
            final_norm: final_norm.transpose()?,
            ropes,
            rank_head: rank_head.transpose()?,
            spec,
        };
        encoder.link_weights();
        Ok(encoder)
    }

    /// Tells each weight which one is used after it.
    fn link_weights(&mut self) {
        let layers = self.layers.iter_mut();
        let mut weights: Vec<&mut LinearWeight> = layers
            .flat_map(|layer| {
                layer.attention.weights_mut().into_iter().chain(layer.ffn.weights_mut())
            })
            .collect();
        for index in 1..weights.len() {
            let (before, after) = weights.split_at_mut(index);
            before[index - 1].set_next(after[0]);
        }
        if let [first, .., last] = &mut weights[..] {
            last.set_next(first);
        }
    }

    pub fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    pub fn rank_head(&self) -> Option<&RankHead> {
        self.rank_head.as_ref()
    }

    /// Runs all rows of a step, which has whole texts alone, and leaves the last layer's output in `ws.hidden`
    /// (`[n, hidden_size]`).
    pub fn forward(&self, device: &Device, ws: &mut Workspace, kv: &mut KvCache, step: &StepInput) {
        let n = step.num_tokens();
        embedding(device, ws.residual.first_rows_mut(n), step.token_ids, (&self.embedding, 0), 1.0);
        if let Some(added) = &self.added {
            let rows = self.spec.positions.map(|_| step.positions);
            add_rows(device, ws.residual.first_rows_mut(n), added, rows);
        }
        let norm = self.embedding_norm.args();
        layer_norm(device, ws.hidden.first_rows_mut(n), ws.residual.first_rows_mut(n), norm);
        match self.spec.norms {
            NormPlace::After => self.run_normed_after(device, ws, kv, step),
            NormPlace::Before => self.run_normed_before(device, ws, kv, step),
        }
    }

    /// `x = norm(x + block(x))` for each block; x is in `ws.residual`, and as blocks read it in `ws.hidden`.
    fn run_normed_after(
        &self,
        device: &Device,
        ws: &mut Workspace,
        kv: &mut KvCache,
        step: &StepInput,
    ) {
        let n = step.num_tokens();
        for (index, layer) in self.layers.iter().enumerate() {
            let at = (step, &self.ropes[..]);
            layer.attention.forward(device, ws, kv.layer_mut(index), at);
            let norm = layer.attention_norm.as_ref().expect("each block has a norm behind it");
            post_norm(device, ws, n, norm);
            layer.ffn.forward(device, ws, n);
            post_norm(device, ws, n, &layer.ffn_norm);
        }
    }

    /// `x = x + block(norm(x))` for each block, and a norm at the end; x is in `ws.residual`.
    fn run_normed_before(
        &self,
        device: &Device,
        ws: &mut Workspace,
        kv: &mut KvCache,
        step: &StepInput,
    ) {
        let n = step.num_tokens();
        for (index, layer) in self.layers.iter().enumerate() {
            if let Some(norm) = &layer.attention_norm {
                add_norm(device, ws, n, norm);
            }
            layer.attention.forward(device, ws, kv.layer_mut(index), (step, &self.ropes));
            add_norm(device, ws, n, &layer.ffn_norm);
            layer.ffn.forward(device, ws, n);
        }
        let norm = self.final_norm.as_ref().expect("loaded where norms come before blocks");
        add_norm(device, ws, n, norm);
    }
}

impl EncoderLayer {
    fn load(
        spec: &EncoderSpec,
        (index, layer): (usize, &EncoderLayerSpec),
        loader: &WeightLoader,
    ) -> anyhow::Result<Self> {
        let (has_norm, attention_norm, ffn_norm) = match spec.norms {
            NormPlace::After => (true, "attn_output_norm", "layer_output_norm"),
            NormPlace::Before => (index > 0, "attn_norm", "ffn_norm"),
        };
        let attention_norm = has_norm.then(|| EncoderNorm::load(spec, loader, attention_norm));
        Ok(Self {
            attention: EncoderAttention::load(spec, layer, loader)?,
            attention_norm: attention_norm.transpose()?,
            ffn: FeedForward::load(spec, loader)?,
            ffn_norm: EncoderNorm::load(spec, loader, ffn_norm)?,
        })
    }
}

/// `residual += block_out; hidden = norm(residual)`.
fn add_norm(device: &Device, ws: &mut Workspace, n: usize, norm: &EncoderNorm) {
    let Workspace { hidden, residual, block_out, .. } = ws;
    let (out, residual) = (hidden.first_rows_mut(n), residual.first_rows_mut(n));
    add_layer_norm(device, out, residual, block_out.first_rows(n), norm.args());
}

/// `residual = norm(residual + block_out); hidden = residual`.
fn post_norm(device: &Device, ws: &mut Workspace, n: usize, norm: &EncoderNorm) {
    let Workspace { hidden, residual, block_out, .. } = ws;
    let (out, residual) = (hidden.first_rows_mut(n), residual.first_rows_mut(n));
    post_layer_norm(device, out, residual, block_out.first_rows(n), norm.args());
}

/// The rows of learned positions from the first token's on, each with the row of the first kind of token; of a reranker all
/// of them once more with the row of the second kind.
fn added_rows(spec: &EncoderSpec, loader: &WeightLoader) -> anyhow::Result<Option<Tensor>> {
    let hidden = spec.hidden_size;
    let table = |name, num_rows| loader.table(name, num_rows, hidden);
    let kinds = match spec.num_token_types {
        0 => None,
        count => Some(table("token_types.weight", count)?),
    };
    let plain = match spec.positions {
        Some(positions) => {
            let table = table("position_embd.weight", positions.num_rows)?;
            table[positions.first_row * hidden..].to_vec()
        }
        None if kinds.is_none() => return Ok(None),
        None => vec![0.0; hidden],
    };
    let mut rows = plain.clone();
    if spec.second_text_row() > 0 {
        rows.extend(plain.iter());
    }
    if let Some(kinds) = kinds {
        for (rows, kind) in rows.chunks_mut(plain.len()).zip(kinds.chunks(hidden)) {
            for row in rows.chunks_mut(hidden) {
                row.iter_mut().zip(kind).for_each(|(x, kind)| *x += kind);
            }
        }
    }
    let num_rows = rows.len() / hidden;
    Ok(Some(loader.device().tensor(DType::F32, &rows, num_rows, hidden)?))
}
