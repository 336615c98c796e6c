//! The generic decoder: one forward pass for every architecture a `DecoderSpec` can describe, on every device.

use std::ops::Range;

use anyhow::{bail, ensure};
use quire_kernels::{
    Device, Indices, LinearWeight, RankGroup, Tensor, all_reduce, gather_columns, gather_rows,
    softcap,
};

use super::spec::{DecoderSpec, FfnSpec, LayerSpec};
use super::vocabulary::Vocabulary;
use crate::kv_cache::KvCache;
use crate::layers::{
    Before, BlockNorm, Mixer, Mlp, Moe, Norm, ParallelMoe, PerLayerInput, PerLayerInputs,
    Positions, PostNorm,
};
use crate::step_input::StepInput;
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

/// Weights of a whole model on one device, or of one rank's part of it.
pub struct Decoder {
    spec: DecoderSpec,
    /// Where the ranks of this model meet; `None`: there is one.
    group: Option<RankGroup>,
    vocabulary: Vocabulary,
    per_layer_inputs: Option<PerLayerInputs>,
    layers: Vec<Layer>,
    final_norm: Norm,
    positions: Positions,
}

struct Layer {
    attention_norm: Norm,
    mixer: Mixer,
    post_attention_norm: Option<PostNorm>,
    mlp_norm: Norm,
    ffn: Ffn,
    post_mlp_norm: Option<PostNorm>,
    per_layer_input: Option<PerLayerInput>,
}

#[expect(clippy::large_enum_variant, reason = "one a layer")]
enum Ffn {
    Dense(Mlp),
    Experts(Moe),
    Parallel(ParallelMoe),
}

impl Decoder {
    /// Loads every weight; `max_model_len` positions get a rotation. `spec` is that of the loader's rank.
    pub fn load(
        spec: DecoderSpec,
        loader: &WeightLoader,
        max_model_len: usize,
    ) -> anyhow::Result<Self> {
        Self::load_without(spec, &(0..0), loader, max_model_len)
    }

    /// As `load`, without the `skipped` layers of the file: `spec` has the others.
    pub fn load_without(
        spec: DecoderSpec,
        skipped: &Range<usize>,
        loader: &WeightLoader,
        max_model_len: usize,
    ) -> anyhow::Result<Self> {
        let mut layers = Vec::with_capacity(spec.num_layers());
        for (index, layer) in spec.layers.iter().enumerate() {
            let in_file = if index < skipped.start { index } else { index + skipped.len() };
            let scope = loader.scope(format!("blk.{in_file}."));
            layers.push(Layer::load(&spec, index, layer, &scope)?);
            loader.progress(index + 1, spec.num_layers());
        }
        let mut decoder = Self {
            group: None,
            vocabulary: Vocabulary::load(&spec, loader)?,
            per_layer_inputs: spec
                .per_layer_inputs
                .map(|size| PerLayerInputs::load(&spec, size, loader))
                .transpose()?,
            layers,
            final_norm: load_norm(&spec, loader, "output_norm.weight")?,
            positions: match loader.is_shape_only() {
                true => Positions::shape_only(&spec, max_model_len),
                false => Positions::new(&spec, max_model_len, loader.device())?,
            },
            spec,
        };
        decoder.link_weights();
        Ok(decoder)
    }

    /// Has this rank meet the others there.
    pub fn set_group(&mut self, group: RankGroup) {
        self.group = Some(group);
    }

    pub fn group(&self) -> Option<&RankGroup> {
        self.group.as_ref()
    }

    /// Tells each weight which one is used after it.
    fn link_weights(&mut self) {
        let head = self.vocabulary.head_mut();
        let layers = self.layers.iter_mut();
        let weights = layers.flat_map(|layer| {
            let last = layer.per_layer_input.iter_mut().flat_map(PerLayerInput::weights_mut);
            layer.mixer.weights_mut().into_iter().chain(layer.ffn.weights_mut()).chain(last)
        });
        let mut weights: Vec<_> = weights.chain([head]).collect();
        for index in 1..weights.len() {
            let (before, after) = weights.split_at_mut(index);
            before[index - 1].set_next(after[0]);
        }
        if let [first, .., last] = &mut weights[..] {
            last.set_next(first);
        }
    }

    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Runs all rows of a step and leaves the last layer's normalised output of `step.output_rows` in `ws.hidden`
    /// (`[m, hidden_size]`).
    pub fn forward(&self, device: &Device, ws: &mut Workspace, kv: &mut KvCache, step: &StepInput) {
        self.forward_observed(device, ws, kv, step, |_, _| ());
    }

    /// As `forward`. `observe` is shown the first rows, so many, that each layer is given, and in the end what is left in
    /// `ws.hidden`.
    pub fn forward_observed(
        &self,
        device: &Device,
        ws: &mut Workspace,
        kv: &mut KvCache,
        step: &StepInput,
        mut observe: impl FnMut(&Tensor, usize),
    ) {
        let mut n = step.num_tokens();
        self.vocabulary.embed(device, ws.residual.first_rows_mut(n), step.token_ids);
        self.add_ranks(device, &mut ws.residual, n);
        if let Some(inputs) = &self.per_layer_inputs {
            let first = self.vocabulary.share().start;
            inputs.make(device, ws, step.token_ids, (first, self.group.as_ref()));
        }
        let (mut before, mut kept) = (Before::Embedding, None);
        for (index, layer) in self.layers.iter().enumerate() {
            let norm = BlockNorm { norm: &layer.attention_norm, before };
            let at = (step, &self.positions);
            layer.mixer.attend(device, ws, norm, (kv, index), at);
            // Its first norm has added what the layer before left.
            observe(&ws.residual, n);
            // No later layer reads what the other rows would become.
            if index + 1 == self.layers.len() && step.output_rows.len() < n {
                n = step.output_rows.len();
                if n == 0 {
                    return;
                }
                layer.mixer.project_rows(device, ws, step.output_rows);
                kept = Some(step.output_rows);
            } else {
                layer.mixer.project(device, ws, n);
            }
            self.add_ranks(device, &mut ws.block_out, n);
            before = Before::block(layer.post_attention_norm.as_ref());
            let (norm, group) = (BlockNorm { norm: &layer.mlp_norm, before }, self.group.as_ref());
            layer.ffn.forward(device, ws, n, norm, group);
            before = Before::block(layer.post_mlp_norm.as_ref());
            if let (Some(input), Before::PostNorm(norm)) = (&layer.per_layer_input, before) {
                before = input.forward(device, ws, n, norm, kept);
            }
        }
        BlockNorm { norm: &self.final_norm, before }.apply(device, ws, n);
        observe(&ws.hidden, n);
    }

    /// This rank's.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// What all ranks made of the first `n` rows, added up.
    fn add_ranks(&self, device: &Device, x: &mut Tensor, n: usize) {
        if let Some(group) = &self.group {
            all_reduce(device, group, x.first_rows_mut(n));
        }
    }

    /// Logits of the given rows of `ws.hidden`, at most as many as `ws.logits` has: `ws.logits[i]` for `rows[i]`, whole on the
    /// first rank.
    pub fn logits(&self, device: &Device, ws: &mut Workspace, rows: Indices) {
        let n = rows.len();
        gather_rows(device, ws.gathered.first_rows_mut(n), ws.hidden.view(), rows);
        let share = ws.logits.first_rows_mut(n).columns(self.vocabulary.share());
        self.vocabulary.project(device, share, ws.gathered.first_rows(n));
        if let Some(group) = &self.group {
            gather_columns(device, group, ws.logits.first_rows_mut(n), self.vocabulary.share());
        }
        if let Some(cap) = self.spec.logits_softcap {
            softcap(device, ws.logits.first_rows_mut(n), cap);
        }
    }
}

impl Layer {
    fn load(
        spec: &DecoderSpec,
        index: usize,
        layer: &LayerSpec,
        loader: &WeightLoader,
    ) -> anyhow::Result<Self> {
        let post_norm = |name, scale| {
            let weight = spec
                .post_norms
                .then(|| loader.norm(name, spec.hidden_size, spec.zero_centred_norms));
            weight.transpose().map(|weight| weight.map(|weight| PostNorm { weight, scale }))
        };
        // Files of some architectures call it by what it follows.
        let mlp_norm = match spec.post_norms || loader.has("ffn_norm.weight") {
            true => "ffn_norm.weight",
            false => "post_attention_norm.weight",
        };
        let scale = match spec.layer_scales {
            true => loader.scalar("layer_output_scale.weight")?,
            false => 1.0,
        };
        let load_input = |size| PerLayerInput::load(spec, size, (index, scale), loader);
        let per_layer_input = spec.per_layer_inputs.map(load_input).transpose()?;
        ensure!(spec.post_norms || per_layer_input.is_none(), "per-layer inputs need norms");
        // It belongs to what comes last.
        let scale = if per_layer_input.is_some() { 1.0 } else { scale };
        Ok(Self {
            attention_norm: load_norm(spec, loader, "attn_norm.weight")?,
            mixer: Mixer::load(spec, layer, loader)?,
            post_attention_norm: post_norm("post_attention_norm.weight", 1.0)?,
            mlp_norm: load_norm(spec, loader, mlp_norm)?,
            ffn: Ffn::load(spec, layer, loader)?,
            post_mlp_norm: post_norm("post_ffw_norm.weight", scale)?,
            per_layer_input,
        })
    }
}

impl Ffn {
    fn load(spec: &DecoderSpec, layer: &LayerSpec, loader: &WeightLoader) -> anyhow::Result<Self> {
        match (layer.ffn, &spec.moe) {
            (FfnSpec::Dense(size), _) => Mlp::load(spec, size, loader).map(Self::Dense),
            (FfnSpec::Experts, Some(moe)) => Moe::load(spec, moe, loader).map(Self::Experts),
            (FfnSpec::Parallel(size), Some(moe)) => {
                ParallelMoe::load(spec, size, moe, loader).map(Self::Parallel)
            }
            (FfnSpec::Experts | FfnSpec::Parallel(_), None) => {
                bail!("a layer has experts, but the model has none")
            }
        }
    }

    /// In the order of their use.
    fn weights_mut(&mut self) -> Vec<&mut LinearWeight> {
        match self {
            Self::Dense(mlp) => mlp.weights_mut().into(),
            Self::Experts(moe) => moe.weights_mut().collect(),
            Self::Parallel(block) => block.weights_mut().collect(),
        }
    }

    /// The first `n` rows after `norm` → `ws.block_out`, added up over the ranks of `group`.
    fn forward(
        &self,
        device: &Device,
        ws: &mut Workspace,
        n: usize,
        norm: BlockNorm,
        group: Option<&RankGroup>,
    ) {
        match self {
            Self::Dense(mlp) => mlp.forward(device, ws, n, Some(norm)),
            Self::Experts(moe) => {
                norm.apply(device, ws, n);
                moe.forward(device, ws, n);
            }
            Self::Parallel(block) => {
                norm.apply(device, ws, n);
                return block.forward(device, ws, n, group);
            }
        }
        if let Some(group) = group {
            all_reduce(device, group, ws.block_out.first_rows_mut(n));
        }
    }
}

fn load_norm(spec: &DecoderSpec, loader: &WeightLoader, name: &str) -> anyhow::Result<Norm> {
    let weight = loader.norm(name, spec.hidden_size, spec.zero_centred_norms)?;
    Ok(Norm { weight, eps: spec.norm_eps })
}
