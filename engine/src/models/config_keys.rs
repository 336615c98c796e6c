//! Reads what Llama-style config.json files share, with the checks that keep later arithmetic safe.

use anyhow::{Context, bail, ensure};
use quire_kernels::{Activation, RopeStyle};

use super::rope::{RopeScaling, RopeSpec, yarn_mscale};
use super::spec::{AttentionDims, DecoderSpec, FfnSpec, LayerSpec, QueryScale};
use crate::weights::directory::{ConfigSection, ModelDirectory};

const DEFAULT_THETA: f32 = 10_000.0;

/// Most layers of a model.
const MAX_LAYERS: usize = 4096;

/// A model directory and the architecture that it is read as.
pub(super) struct ConfigKeys<'a> {
    directory: &'a ModelDirectory,
    architecture: &'static str,
}

impl<'a> ConfigKeys<'a> {
    pub(super) fn new(directory: &'a ModelDirectory, architecture: &'static str) -> Self {
        Self { directory, architecture }
    }

    /// The keys of the text model.
    pub(super) fn text(&self) -> ConfigSection<'a> {
        self.directory.config().text()
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
        let text = self.directory.config().text();
        let hidden_size = text.dimension("hidden_size")?;
        let attention = attention(&text, hidden_size)?;
        let layer = LayerSpec {
            attention,
            window: None,
            chunk: None,
            rope: Some(0),
            shares_key_weight: false,
            ffn: FfnSpec::Dense(intermediate_size(&text)?),
            is_recurrent: false,
        };
        let num_layers = text.dimension("num_hidden_layers")?;
        Ok(DecoderSpec {
            architecture: self.architecture,
            hidden_size,
            vocab_size: text.dimension("vocab_size")?,
            context_length: text.dimension("max_position_embeddings")? as u32,
            layers: layers(&text, layer, num_layers)?,
            ropes: vec![rope(&text, attention.head_dim)?],
            latent: None,
            moe: None,
            gated_delta: None,
            norm_eps: text.require_positive("rms_norm_eps")?,
            qkv_bias: self.has_tensor("blk.0.attn_q.bias"),
            attention_output_bias: self.has_tensor("blk.0.attn_output.bias"),
            qk_norm: false,
            plain_qk_norm: false,
            attention_gate: false,
            zero_centred_norms: false,
            value_norm: false,
            sinks: false,
            post_norms: false,
            layer_scales: false,
            activation: activation(&text)?,
            embedding_scale: 1.0,
            attention_scale: 1.0 / (attention.head_dim as f32).sqrt(),
            attention_softcap: None,
            logits_softcap: None,
            query_scale: None,
            tied_embeddings: self.tied_embeddings(&text)?,
        })
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
) -> anyhow::Result<Vec<LayerSpec>> {
    ensure!(
        num_layers <= MAX_LAYERS,
        "{} is {num_layers}, above the limit of {MAX_LAYERS}",
        text.name_of("num_hidden_layers")
    );
    let window = window(text)?;
    let Some(kinds) = text.strings("layer_types")? else {
        return Ok(vec![LayerSpec { window, ..layer }; num_layers]);
    };
    let name = text.name_of("layer_types");
    ensure!(
        kinds.len() == num_layers,
        "{name} has {} entries for {num_layers} layers",
        kinds.len()
    );
    let of_kind = |&kind: &&str| match kind {
        "full_attention" | "chunked_attention" => Ok(layer),
        "linear_attention" => Ok(LayerSpec { is_recurrent: true, ..layer }),
        "sliding_attention" if window.is_some() => Ok(LayerSpec { window, ..layer }),
        "sliding_attention" => bail!("{name} has windows, but sliding_window is not set"),
        other => bail!("{name} has \"{other}\", which is not supported"),
    };
    kinds.iter().map(of_kind).collect()
}

fn attention(text: &ConfigSection, hidden_size: usize) -> anyhow::Result<AttentionDims> {
    let num_heads = text.dimension("num_attention_heads")?;
    let num_kv_heads = text.optional_dimension("num_key_value_heads")?.unwrap_or(num_heads);
    ensure!(
        num_heads.is_multiple_of(num_kv_heads),
        "{num_heads} heads are not a multiple of {num_kv_heads} KV heads"
    );
    let head_dim = text.optional_dimension("head_dim")?.unwrap_or(hidden_size / num_heads);
    ensure!((1..=1024).contains(&head_dim), "a head of {head_dim} channels is not supported");
    Ok(AttentionDims { num_heads, num_kv_heads, head_dim })
}

/// `sliding_window`, on all layers (Mistral 7B); Qwen's files have a number that they switch off.
fn window(text: &ConfigSection) -> anyhow::Result<Option<u32>> {
    let is_on = text.bool("use_sliding_window")?.unwrap_or(true);
    let window = text.optional_dimension("sliding_window")?.filter(|_| is_on);
    Ok(window.map(|window| window as u32))
}

/// `rope_parameters`, or of older files `rope_theta` and `rope_scaling`.
fn rope(text: &ConfigSection, head_dim: usize) -> anyhow::Result<RopeSpec> {
    let parameters = text.section("rope_parameters")?;
    let scaling = match &parameters {
        Some(section) => Some(section.clone()),
        None => text.section("rope_scaling")?,
    };
    if let Some(section) = scaling.as_ref().filter(|section| section.is_nested()) {
        bail!("{} differ by kind of layer, which is not supported yet", section.name_of("*"));
    }
    let number = |key: &str| match parameters.as_ref().map(|section| section.positive(key)) {
        Some(Ok(None)) | None => text.positive(key),
        Some(found) => found,
    };
    let partial = number("partial_rotary_factor")?.unwrap_or(1.0);
    let rotary_dim = (head_dim as f32 * partial) as usize;
    ensure!(
        rotary_dim.is_multiple_of(2) && (2..=head_dim).contains(&rotary_dim),
        "{rotary_dim} of a head's {head_dim} channels cannot be rotated"
    );
    let (scaling, attention_factor) = match scaling {
        None => (RopeScaling::None, 1.0),
        Some(section) => {
            let scaling = rope_scaling(&section, text)?;
            let factor = match &scaling {
                RopeScaling::Yarn { factor, .. } => yarn_attention_factor(*factor, &section)?,
                _ => 1.0,
            };
            (scaling, factor)
        }
    };
    Ok(RopeSpec {
        theta: number("rope_theta")?.unwrap_or(DEFAULT_THETA),
        rotary_dim,
        // These checkpoints pair the halves of a head, whatever converters make of them.
        style: RopeStyle::Neox,
        scaling,
        attention_factor,
    })
}

/// What multiplies cosines and sines: said, or the paper's growth with the factor, where two scales give their quotient.
fn yarn_attention_factor(factor: f32, section: &ConfigSection) -> anyhow::Result<f32> {
    if let Some(said) = section.positive("attention_factor")? {
        return Ok(said);
    }
    // 0 counts as absent.
    let scale = |key| anyhow::Ok(section.number(key)?.filter(|&scale| scale != 0.0));
    Ok(match (scale("mscale")?, scale("mscale_all_dim")?) {
        (Some(one), Some(all)) => yarn_mscale(factor, one as f32) / yarn_mscale(factor, all as f32),
        _ => yarn_mscale(factor, 1.0),
    })
}

fn rope_scaling(section: &ConfigSection, text: &ConfigSection) -> anyhow::Result<RopeScaling> {
    let (key, kind) = match (section.string("rope_type")?, section.string("type")?) {
        (Some(kind), _) => ("rope_type", kind),
        (None, Some(kind)) => ("type", kind),
        (None, None) => return Ok(RopeScaling::None),
    };
    Ok(match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: section.require_positive("factor")? },
        "llama3" => {
            let original = "original_max_position_embeddings";
            let (low, high) = ("low_freq_factor", "high_freq_factor");
            let low_freq_factor = section.require_positive(low)?;
            let high_freq_factor = section.require_positive(high)?;
            ensure!(
                low_freq_factor < high_freq_factor,
                "{} is {high_freq_factor}, not above {low} {low_freq_factor}",
                section.name_of(high)
            );
            let inside = section.positive(original)?;
            let original_context_length =
                inside.map_or_else(|| text.require_positive(original), Ok)?;
            RopeScaling::Llama3 {
                factor: section.require_positive("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_context_length,
            }
        }
        "yarn" => {
            let inside = section.positive("original_max_position_embeddings")?;
            let length = match inside {
                Some(length) => length as u32,
                None => text.dimension("max_position_embeddings")? as u32,
            };
            RopeScaling::Yarn {
                factor: section.require_positive("factor")?,
                original_context_length: length,
                beta_fast: section.positive("beta_fast")?.unwrap_or(32.0),
                beta_slow: section.positive("beta_slow")?.unwrap_or(1.0),
                truncate: section.bool("truncate")?.unwrap_or(true),
            }
        }
        other => bail!("{} is \"{other}\", which is not supported yet", section.name_of(key)),
    })
}
