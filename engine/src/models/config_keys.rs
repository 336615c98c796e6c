//! Reads what Llama-style config.json files share, with the checks that keep later arithmetic safe.

use anyhow::{Context, bail, ensure};
use quire_kernels::Activation;

use super::spec::{AttentionDims, DecoderSpec, LayerSpec, PlainDecoder, QueryScale};
use crate::weights::directory::{ConfigSection, ModelDirectory};

/// Most layers of a model.
const MAX_LAYERS: usize = 4096;

/// A model directory and the architecture that it is read as.
pub(super) struct ConfigKeys<'a> {
    pub(super) directory: &'a ModelDirectory,
    architecture: &'static str,
}

/// What configurations of an architecture may leave out, because transformers has it in its code; `None`: nothing.
#[derive(Clone, Copy, Default)]
pub(super) struct Defaults {
    pub num_heads: Option<usize>,
    pub num_kv_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub norm_eps: Option<f32>,
    pub context_length: Option<usize>,
    /// Of layers with a window, all but the last of so many have one.
    pub window_period: Option<usize>,
}

impl<'a> ConfigKeys<'a> {
    pub(super) fn new(directory: &'a ModelDirectory, architecture: &'static str) -> Self {
        Self { directory, architecture }
    }

    /// The keys of the text model.
    pub(super) fn text(&self) -> ConfigSection<'a> {
        self.directory.config().text()
    }

    pub(super) fn architecture(&self) -> &'static str {
        self.architecture
    }

    pub(super) fn has_tensor(&self, name: &str) -> bool {
        self.directory.has_tensor(name)
    }

    /// A number of `rope_parameters`, or of older files `rope_scaling`.
    pub(super) fn rope_scale(&self, key: &str) -> anyhow::Result<Option<f32>> {
        let text = self.text();
        let section = match text.section("rope_parameters")? {
            Some(section) => Some(section),
            None => text.section("rope_scaling")?,
        };
        let number = section.map(|section| section.number(key)).transpose()?.flatten();
        Ok(number.map(|number| number as f32).filter(|number| number.is_finite()))
    }

    /// How Ministral 3 and Mistral Small 4 let queries grow.
    pub(super) fn query_scale(&self) -> anyhow::Result<Option<QueryScale>> {
        let Some(beta) = self.rope_scale("llama_4_scaling_beta")? else { return Ok(None) };
        let length = self.rope_scale("original_max_position_embeddings")?;
        let length = length.filter(|&length| length >= 1.0);
        let length = length.context("original_max_position_embeddings is missing")?;
        let original_context_length = length as u32;
        Ok(Some(QueryScale { beta, original_context_length, offset: 0, without_rope: false }))
    }

    /// The spec without architecture-specific switches.
    pub(super) fn llama_like(&self) -> anyhow::Result<DecoderSpec> {
        self.llama_like_with(Defaults::default())
    }

    /// As `llama_like`, with values for what a configuration leaves out.
    pub(super) fn llama_like_with(&self, defaults: Defaults) -> anyhow::Result<DecoderSpec> {
        let text = self.directory.config().text();
        let hidden_size = text.dimension("hidden_size")?;
        let attention = attention(&text, hidden_size, defaults)?;
        let layer = LayerSpec::plain(attention, intermediate_size(&text)?);
        let num_layers = text.dimension("num_hidden_layers")?;
        let norm_eps = match (text.positive("rms_norm_eps")?, defaults.norm_eps) {
            (Some(eps), _) | (None, Some(eps)) => eps,
            (None, None) => text.require_positive("rms_norm_eps")?,
        };
        let context_length = or_default(&text, "max_position_embeddings", defaults.context_length)?;
        let plain = DecoderSpec::plain(PlainDecoder {
            architecture: self.architecture,
            hidden_size,
            vocab_size: self.vocab_size()?,
            context_length: context_length as u32,
            head_dim: attention.head_dim,
            layers: layers(&text, layer, num_layers, defaults.window_period)?,
            rope: self.rope(attention.head_dim, "full_attention")?,
            norm_eps,
            tied_embeddings: self.tied_embeddings(&text)?,
        });
        let plain = plain.with_biases(|name| self.has_tensor(name));
        Ok(DecoderSpec { activation: activation(&text)?, ..plain })
    }

    /// As the configuration says; where it does not, as many as the embedding table has rows.
    fn vocab_size(&self) -> anyhow::Result<usize> {
        let text = self.directory.config().text();
        let rows = || match self.directory.shape("token_embd.weight") {
            Some(&[rows, _]) => Some(rows as usize),
            _ => None,
        };
        or_default(&text, "vocab_size", rows())
    }

    /// As the configuration says; where it does not, a model without a head has the embedding table for one.
    fn tied_embeddings(&self, text: &ConfigSection) -> anyhow::Result<bool> {
        let key = "tie_word_embeddings";
        let said = match text.bool(key)? {
            None => self.directory.config().top().bool(key)?,
            said => said,
        };
        Ok(said.unwrap_or_else(|| !self.directory.has_tensor("output.weight")))
    }
}

/// Models with experts only may leave it out.
fn intermediate_size(text: &ConfigSection) -> anyhow::Result<usize> {
    match text.has("num_experts") {
        true => Ok(text.optional_dimension("intermediate_size")?.unwrap_or(0)),
        false => text.dimension("intermediate_size"),
    }
}

/// A count that the configuration may leave out.
fn or_default(text: &ConfigSection, key: &str, default: Option<usize>) -> anyhow::Result<usize> {
    match (text.optional_dimension(key)?, default) {
        (Some(value), _) | (None, Some(value)) => Ok(value),
        (None, None) => text.dimension(key),
    }
}

fn activation(text: &ConfigSection) -> anyhow::Result<Activation> {
    let keys = ["hidden_act", "hidden_activation"];
    for key in keys {
        match text.string(key)? {
            None => {}
            Some("silu") => return Ok(Activation::Silu),
            Some("gelu_pytorch_tanh") => return Ok(Activation::GeluTanh),
            Some(other) => bail!(
                "{} is \"{other}\"; only silu and gelu_pytorch_tanh are supported",
                text.name_of(key)
            ),
        }
    }
    Ok(Activation::Silu)
}

/// Layers like `layer`, with the window where `layer_types` says so, or else on all of them.
fn layers(
    text: &ConfigSection,
    layer: LayerSpec,
    num_layers: usize,
    window_period: Option<usize>,
) -> anyhow::Result<Vec<LayerSpec>> {
    ensure!(
        num_layers <= MAX_LAYERS,
        "{} is {num_layers}, above the limit of {MAX_LAYERS}",
        text.name_of("num_hidden_layers")
    );
    let window = window(text)?;
    let Some(kinds) = text.strings("layer_types")? else {
        let period = match text.optional_dimension("sliding_window_pattern")? {
            None => text.optional_dimension("_sliding_window_pattern")?.or(window_period),
            period => period,
        };
        let has_window = |at: usize| period.is_none_or(|period| !(at + 1).is_multiple_of(period));
        let of_place = |at| LayerSpec { window: window.filter(|_| has_window(at)), ..layer };
        return Ok((0..num_layers).map(of_place).collect());
    };
    let name = text.name_of("layer_types");
    ensure!(
        kinds.len() == num_layers,
        "{name} has {} entries for {num_layers} layers",
        kinds.len()
    );
    let of_kind = |&kind: &&str| match kind {
        "full_attention" | "chunked_attention" | "indexed_attention" => Ok(layer),
        "linear_attention" => Ok(LayerSpec { is_recurrent: true, ..layer }),
        "sliding_attention" if window.is_some() => Ok(LayerSpec { window, ..layer }),
        "sliding_attention" => bail!("{name} has windows, but sliding_window is not set"),
        other => bail!("{name} has \"{other}\", which is not supported"),
    };
    kinds.iter().map(of_kind).collect()
}

fn attention(
    text: &ConfigSection,
    hidden_size: usize,
    defaults: Defaults,
) -> anyhow::Result<AttentionDims> {
    let num_heads = or_default(text, "num_attention_heads", defaults.num_heads)?;
    let num_kv_heads = text.optional_dimension("num_key_value_heads")?;
    let num_kv_heads = num_kv_heads.or(defaults.num_kv_heads).unwrap_or(num_heads);
    ensure!(
        num_heads.is_multiple_of(num_kv_heads),
        "{num_heads} heads are not a multiple of {num_kv_heads} KV heads"
    );
    let head_dim = text.optional_dimension("head_dim")?.or(defaults.head_dim);
    let head_dim = head_dim.unwrap_or(hidden_size / num_heads);
    ensure!((1..=1024).contains(&head_dim), "a head of {head_dim} channels is not supported");
    Ok(AttentionDims { num_heads, num_kv_heads, head_dim })
}

/// `sliding_window`, on all layers (Mistral 7B); Qwen's files have a number that they switch off.
fn window(text: &ConfigSection) -> anyhow::Result<Option<u32>> {
    let is_on = text.bool("use_sliding_window")?.unwrap_or(true);
    let window = text.optional_dimension("sliding_window")?.filter(|_| is_on);
    Ok(window.map(|window| window as u32))
}
