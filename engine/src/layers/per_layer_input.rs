//! Per-layer embeddings (Gemma 4 E2B and E4B): each token has a small vector for each layer, which gates what the layer adds
//! to its output in the end.

use quire_kernels::{
    Activation, Device, Gated, Indices, Input, LinearWeight, RankGroup, SandwichNorm, Tensor,
    all_reduce, copy_rows, embedding, gather_rows, linear, sandwich_norm,
};

use super::{Before, PostNorm};
use crate::models::spec::DecoderSpec;
use crate::weights::WeightLoader;
use crate::workspace::{PerLayerWorkspace, Workspace};

/// What the parts of the sum are multiplied with.
const SUM_SCALE: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// Weights that make the vectors of all layers: `(norm(projection · x / √hidden_size) + table[token] · √size) / √2`, where x
/// is the token's embedding.
pub struct PerLayerInputs {
    size: usize,
    num_layers: usize,
    table: LinearWeight,
    projection: LinearWeight,
    /// `[1, size]`
    norm: Tensor,
    eps: f32,
}

impl PerLayerInputs {
    /// `size` is that of a layer's vector.
    pub fn load(spec: &DecoderSpec, size: usize, loader: &WeightLoader) -> anyhow::Result<Self> {
        let (num_layers, hidden) = (spec.num_layers(), spec.hidden_size);
        let all = num_layers * size;
        Ok(Self {
            size,
            num_layers,
            table: loader.vocabulary("per_layer_token_embd.weight", spec.vocab_size, all)?,
            projection: loader.linear("per_layer_model_proj.weight", all, hidden)?,
            norm: loader.vector("per_layer_proj_norm.weight", size)?,
            // The division by √hidden_size, which the norm undoes but for this.
            eps: spec.norm_eps * hidden as f32,
        })
    }

    /// `token_ids` and their embeddings in `ws.residual` → `ws.per_layer.vectors`. Of a rank the table's first row is that of
    /// token `first`.
    pub fn make(
        &self,
        device: &Device,
        ws: &mut Workspace,
        token_ids: Indices,
        (first, group): (usize, Option<&RankGroup>),
    ) {
        let (n, all) = (token_ids.len(), self.num_layers * self.size);
        let Workspace { hidden, residual, per_layer, .. } = ws;
        let PerLayerWorkspace { inputs, projected, vectors, .. } =
            per_layer.as_mut().expect("planned for models with per-layer embeddings");
        let rows = n * self.num_layers;
        let scale = (self.size as f32).sqrt();
        let sum = inputs.first_rows_mut(rows).reshaped(n, all);
        embedding(device, sum, token_ids, (&self.table, first), scale);
        if let Some(group) = group {
            all_reduce(device, group, inputs.first_rows_mut(rows));
        }
        let out = projected.first_rows_mut(rows).reshaped(n, all);
        copy_rows(device, hidden.first_rows_mut(n), residual.first_rows(n));
        linear(device, out, hidden.first_rows(n), &self.projection, None);
        // What it leaves in `vectors` is another norm of the sum.
        let (post_weight, weight, eps) = (&self.norm, &self.norm, self.eps);
        let norm = SandwichNorm { post_weight, scale: SUM_SCALE, weight, eps };
        let (out, sum) = (vectors.first_rows_mut(rows), inputs.first_rows_mut(rows));
        sandwich_norm(device, out, sum, projected.first_rows(rows), norm);
        let (out, sum) = (vectors.first_rows_mut(rows), inputs.first_rows(rows));
        copy_rows(device, out.reshaped(n, all), sum.reshaped(n, all));
    }
}

/// Weights of the block that ends one layer: `x += norm(projection · (gelu(gate · x) · vector))`.
pub struct PerLayerInput {
    index: usize,
    size: usize,
    num_layers: usize,
    gate: LinearWeight,
    projection: LinearWeight,
    post_norm: PostNorm,
    eps: f32,
}

impl PerLayerInput {
    /// Of layer `index`, whose output `scale` multiplies.
    pub fn load(
        spec: &DecoderSpec,
        size: usize,
        (index, scale): (usize, f32),
        loader: &WeightLoader,
    ) -> anyhow::Result<Self> {
        let hidden = spec.hidden_size;
        let weight = loader.vector("post_norm.weight", hidden)?;
        Ok(Self {
            index,
            size,
            num_layers: spec.num_layers(),
            gate: loader.linear("inp_gate.weight", size, hidden)?,
            projection: loader.linear("proj.weight", hidden, size)?,
            post_norm: PostNorm { weight, scale },
            eps: spec.norm_eps,
        })
    }

    /// In the order of their use.
    pub fn weights_mut(&mut self) -> [&mut LinearWeight; 2] {
        [&mut self.gate, &mut self.projection]
    }

    /// Adds `ws.block_out` to the residual stream through `post_mlp_norm`, and leaves the block's own output there. `kept`:
    /// the rows of the step that are left, where some were dropped.
    pub fn forward(
        &self,
        device: &Device,
        ws: &mut Workspace,
        n: usize,
        post_mlp_norm: &PostNorm,
        kept: Option<Indices>,
    ) -> Before<'_> {
        let Workspace { hidden, residual, block_out, per_layer, .. } = ws;
        let buffers = per_layer.as_mut().expect("planned for models with per-layer embeddings");
        let PostNorm { weight: post_weight, scale } = post_mlp_norm;
        // What it leaves in `hidden` is not used: the block reads the stream itself.
        let weight = &self.post_norm.weight;
        let norm = SandwichNorm { post_weight, scale: *scale, weight, eps: self.eps };
        let (out, x) = (hidden.first_rows_mut(n), block_out.first_rows(n));
        sandwich_norm(device, out, residual.first_rows_mut(n), x, norm);

        let (size, all) = (self.size, self.num_layers * self.size);
        copy_rows(device, hidden.first_rows_mut(n), residual.first_rows(n));
        let PerLayerWorkspace { vectors, gate_up, activated, .. } = buffers;
        let gate = gate_up.first_rows_mut(n).columns(0..size);
        linear(device, gate, hidden.first_rows(n), &self.gate, None);
        let up = gate_up.first_rows_mut(n).columns(size..2 * size);
        let rows = vectors.view().reshaped(vectors.rows() / self.num_layers, all);
        let of_layer = rows.columns(self.index * size..(self.index + 1) * size);
        match kept {
            Some(kept) => gather_rows(device, up, of_layer, kept),
            None => copy_rows(device, up, of_layer.first_rows(n)),
        }
        let gated = Gated {
            out: activated.first_rows_mut(n),
            gate_up: gate_up.first_rows(n),
            activation: Activation::GeluTanh,
        };
        let out = block_out.first_rows_mut(n);
        linear(device, out, Input::Gated(gated), &self.projection, None);
        Before::PostNorm(&self.post_norm)
    }
}
