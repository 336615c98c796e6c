//! What the files of all encoders share: sizes, biases, positions.

use anyhow::{Context, bail, ensure};
use quire_kernels::Activation;

use super::config_keys::ConfigKeys;
use super::encoder_spec::{EncoderLayerSpec, EncoderSpec, NormPlace, PositionTable};
use super::gguf_keys::Keys;
use super::rank_head;
use super::spec::AttentionDims;
use crate::weights::directory::ConfigSection;

/// Most layers of a model.
const MAX_LAYERS: usize = 4096;

impl Keys<'_> {
    /// A spec with norms behind blocks, and without a gate, rotations or windows.
    pub(super) fn encoder(&self) -> anyhow::Result<EncoderSpec> {
        let hidden_size = self.dimension("embedding_length")?;
        let table = |name: &str| {
            let dims = self.file.tensor(name).map(|tensor| tensor.dims.get(1).copied());
            dims.map(|rows| {
                let rows = rows.filter(|&rows| (1..=1 << 24).contains(&rows));
                rows.map(|rows| rows as usize).with_context(|| format!("\"{name}\" is no table"))
            })
        };
        let vocab_size = table("token_embd.weight").transpose()?;
        let num_rows = table("position_embd.weight").transpose()?;
        let context_length = self.dimension("context_length")?;
        let eps = match self.positive("attention.layer_norm_epsilon")? {
            // Some converters write it as if it were of the other norm.
            None => self.positive("attention.layer_norm_rms_epsilon")?,
            eps => eps,
        };
        let has = |name: &str| self.has_tensor(name);
        Ok(EncoderSpec {
            architecture: self.architecture(),
            hidden_size,
            vocab_size: vocab_size.context("the file has no tensor \"token_embd.weight\"")?,
            context_length: num_rows.map_or(context_length, |rows| rows.min(context_length)) as u32,
            layers: layers(self.dimension("block_count")?)?,
            attention: heads(hidden_size, self.dimension("attention.head_count")?)?,
            ropes: Vec::new(),
            positions: num_rows.map(|num_rows| PositionTable { num_rows, first_row: 0 }),
            num_token_types: table("token_types.weight").transpose()?.unwrap_or(0),
            intermediate_size: self.dimension("feed_forward_length")?,
            activation: Activation::Gelu,
            is_gated: false,
            norms: NormPlace::After,
            norm_eps: eps.with_context(|| {
                format!("the file has no key \"{}\"", self.key("attention.layer_norm_epsilon"))
            })?,
            norm_bias: has("token_embd_norm.bias"),
            attention_bias: has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias"),
            ffn_bias: has("blk.0.ffn_up.bias"),
            rank_head: rank_head::of_gguf(self)?,
        })
    }
}

impl ConfigKeys<'_> {
    /// As `Keys::encoder`; the sizes have one of these names each.
    pub(super) fn encoder(&self) -> anyhow::Result<EncoderSpec> {
        let text = self.text();
        let size = |names: [&'static str; 2]| match text.optional_dimension(names[1])? {
            Some(size) => Ok(size),
            None => text.dimension(names[0]),
        };
        let hidden_size = size(["hidden_size", "n_embd"])?;
        let eps = ["layer_norm_eps", "layer_norm_epsilon", "norm_eps"];
        let eps = eps.iter().find_map(|key| text.positive(key).transpose()).transpose()?;
        let has = |name: &str| self.has_tensor(name);
        Ok(EncoderSpec {
            architecture: self.architecture(),
            hidden_size,
            vocab_size: text.dimension("vocab_size")?,
            context_length: size(["max_position_embeddings", "n_positions"])? as u32,
            layers: layers(size(["num_hidden_layers", "n_layer"])?)?,
            attention: heads(hidden_size, size(["num_attention_heads", "n_head"])?)?,
            ropes: Vec::new(),
            positions: None,
            num_token_types: match has("token_types.weight") {
                true => text.optional_dimension("type_vocab_size")?.unwrap_or(2),
                false => 0,
            },
            intermediate_size: size(["intermediate_size", "n_inner"])?,
            activation: activation(&text)?,
            is_gated: false,
            norms: NormPlace::After,
            norm_eps: eps.unwrap_or(1e-12),
            norm_bias: has("token_embd_norm.bias"),
            attention_bias: has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias"),
            ffn_bias: has("blk.0.ffn_up.bias"),
            rank_head: rank_head::of_directory(self.directory, self.architecture())?,
        })
    }
}

/// Layers that differ in nothing.
fn layers(num_layers: usize) -> anyhow::Result<Vec<EncoderLayerSpec>> {
    ensure!(num_layers <= MAX_LAYERS, "{num_layers} layers, above the limit of {MAX_LAYERS}");
    Ok(vec![EncoderLayerSpec { window: None, rope: None }; num_layers])
}

fn heads(hidden_size: usize, num_heads: usize) -> anyhow::Result<AttentionDims> {
    let head_dim = hidden_size / num_heads;
    ensure!(
        hidden_size.is_multiple_of(num_heads) && head_dim.is_multiple_of(2) && head_dim <= 1024,
        "{hidden_size} channels cannot be {num_heads} heads"
    );
    Ok(AttentionDims { num_heads, num_kv_heads: num_heads, head_dim })
}

/// GELU where the configuration does not say.
fn activation(text: &ConfigSection) -> anyhow::Result<Activation> {
    for key in ["hidden_act", "hidden_activation", "activation_function"] {
        return Ok(match text.string(key)? {
            None => continue,
            Some("gelu") => Activation::Gelu,
            Some("gelu_new" | "gelu_pytorch_tanh") => Activation::GeluTanh,
            Some("silu" | "swiglu") => Activation::Silu,
            Some(other) => bail!(
                "{} is \"{other}\"; gelu, gelu_new, gelu_pytorch_tanh, silu and swiglu are supported",
                text.name_of(key)
            ),
        });
    }
    Ok(Activation::Gelu)
}
