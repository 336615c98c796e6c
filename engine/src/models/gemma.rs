//! What the generations of Gemma share.

use quire_kernels::Activation;

use super::config_keys::ConfigKeys;
use super::gguf_keys::Keys;
use super::spec::DecoderSpec;

/// `spec` with Gemma's norms, activation and scale of embeddings.
/// (Where a generation adds 1 to the weights of its norms, converters have added it.)
pub(super) fn gemma_like(spec: DecoderSpec) -> DecoderSpec {
    DecoderSpec {
        qk_norm: true,
        post_norms: true,
        activation: Activation::GeluTanh,
        embedding_scale: (spec.hidden_size as f32).sqrt(),
        ..spec
    }
}

/// The attention's scale in Gemma 2 and 3. Files leave it out: it is that of the head, but in the models of
/// `layers_of_27b` layers it is that of hidden_size / num_heads.
pub(super) fn attention_scale(
    keys: &Keys,
    spec: &DecoderSpec,
    layers_of_27b: usize,
) -> anyhow::Result<f32> {
    let num_heads = spec.largest(|dims| dims.num_heads);
    Ok(match keys.positive("attention.scale")? {
        Some(scale) => scale,
        None if spec.num_layers() == layers_of_27b => {
            1.0 / (spec.hidden_size as f32 / num_heads as f32).sqrt()
        }
        None => spec.attention_scale,
    })
}

/// The same, which config.json says.
pub(super) fn attention_scale_of_config(keys: &ConfigKeys, default: f32) -> anyhow::Result<f32> {
    let scalar = keys.text().positive("query_pre_attn_scalar")?.unwrap_or(default);
    Ok(1.0 / scalar.sqrt())
}
