//! The generic decoder: one forward pass for every architecture a `DecoderSpec` can describe, on every device.

use quire_kernels::{
    Device, LinearWeight, RopeTable, Tensor, add_rms_norm, embedding, gather_rows, linear, rms_norm,
};

use super::spec::DecoderSpec;
use crate::kv_cache::KvCache;
use crate::layers::{Attention, Mlp};
use crate::step_input::StepInput;
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

/// Weights of a whole model on one device.
pub struct Decoder {
    spec: DecoderSpec,
    embedding: LinearWeight,
    layers: Vec<Layer>,
    final_norm: Tensor,
    /// `None`: the embedding table.
    lm_head: Option<LinearWeight>,
    rope: RopeTable,
}

struct Layer {
    attention_norm: Tensor,
    attention: Attention,
    mlp_norm: Tensor,
    mlp: Mlp,
}

impl Decoder {
    /// Loads every weight; `max_model_len` positions get a rotation.
    pub fn load(
        spec: DecoderSpec,
        loader: &WeightLoader,
        max_model_len: usize,
    ) -> anyhow::Result<Self> {
        let (vocab_size, hidden_size) = (spec.vocab_size, spec.hidden_size);
        let layers = (0..spec.num_layers)
            .map(|index| {
                let layer = Layer::load(&spec, &loader.scope(format!("blk.{index}.")))?;
                loader.progress(index + 1, spec.num_layers);
                Ok(layer)
            })
            .collect::<anyhow::Result<Vec<Layer>>>()?;
        let lm_head = match spec.tied_embeddings {
            true => None,
            false => Some(loader.linear("output.weight", vocab_size, hidden_size)?),
        };
        Ok(Self {
            embedding: loader.linear("token_embd.weight", vocab_size, hidden_size)?,
            layers,
            final_norm: loader.vector("output_norm.weight", hidden_size)?,
            lm_head,
            rope: load_rope(&spec, loader, max_model_len)?,
            spec,
        })
    }

    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Runs all rows of a step and leaves the last layer's normalised output in `ws.hidden` (`[n, hidden_size]`).
    pub fn forward(&self, device: &Device, ws: &mut Workspace, kv: &mut KvCache, step: &StepInput) {
        let n = step.num_tokens();
        let eps = self.spec.norm_eps;
        embedding(device, ws.residual.first_rows_mut(n), step.token_ids, &self.embedding, 1.0);
        let first_norm =
            self.layers.first().map_or(&self.final_norm, |layer| &layer.attention_norm);
        rms_norm(device, ws.hidden.first_rows_mut(n), ws.residual.first_rows(n), first_norm, eps);
        for (index, layer) in self.layers.iter().enumerate() {
            layer.attention.forward(device, ws, kv.layer_mut(index), step, &self.rope);
            add_norm(device, ws, n, &layer.mlp_norm, eps);
            layer.mlp.forward(device, ws, n);
            let next = self.layers.get(index + 1);
            let next_norm = next.map_or(&self.final_norm, |next| &next.attention_norm);
            add_norm(device, ws, n, next_norm, eps);
        }
    }

    /// Logits of the given rows of `ws.hidden`, at most as many as `ws.logits` has: `ws.logits[i]` for `rows[i]`.
    pub fn logits(&self, device: &Device, ws: &mut Workspace, rows: &[u32]) {
        let n = rows.len();
        gather_rows(device, ws.gathered.first_rows_mut(n), ws.hidden.view(), rows);
        let head = self.lm_head.as_ref().unwrap_or(&self.embedding);
        linear(device, ws.logits.first_rows_mut(n), ws.gathered.first_rows(n), head, None);
    }
}

impl Layer {
    fn load(spec: &DecoderSpec, loader: &WeightLoader) -> anyhow::Result<Self> {
        Ok(Self {
            attention_norm: loader.vector("attn_norm.weight", spec.hidden_size)?,
            attention: Attention::load(spec, loader)?,
            mlp_norm: loader.vector("ffn_norm.weight", spec.hidden_size)?,
            mlp: Mlp::load(spec, loader)?,
        })
    }
}

/// `residual += block_out; hidden = norm(residual)`.
fn add_norm(device: &Device, ws: &mut Workspace, n: usize, weight: &Tensor, eps: f32) {
    let (out, residual) = (ws.hidden.first_rows_mut(n), ws.residual.first_rows_mut(n));
    add_rms_norm(device, out, residual, ws.block_out.first_rows(n), weight, eps);
}

fn load_rope(
    spec: &DecoderSpec,
    loader: &WeightLoader,
    max_model_len: usize,
) -> anyhow::Result<RopeTable> {
    let half = spec.rope.rotary_dim / 2;
    if loader.is_shape_only() {
        return Ok(RopeTable::shape_only(spec.rope.rotary_dim, max_model_len, spec.rope.style));
    }
    let factors = match spec.rope.has_frequency_factors {
        true => loader.vector("rope_freqs.weight", half)?.f32().to_vec(),
        false => Vec::new(),
    };
    let frequencies = spec.rope.inverse_frequencies(&factors);
    RopeTable::new(&frequencies, 1.0, max_model_len, spec.rope.style)
        .ok_or_else(|| anyhow::anyhow!("no memory for the rotations of {max_model_len} positions"))
}
