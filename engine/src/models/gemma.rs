//! What the generations of Gemma share.

use quire_kernels::Activation;

use super::gguf_keys::Keys;
use super::spec::DecoderSpec;

/// `spec` with Gemma's norms, activation and scales. Files leave the attention's scale out: it is that of the head,
/// but in the models of `layers_of_27b` layers it is that of hidden_size / num_heads.
/// (Converters have added the 1 of Gemma's norms to their weights.)
pub(super) fn gemma_like(
    keys: &Keys,
    spec: DecoderSpec,
    layers_of_27b: usize,
) -> anyhow::Result<DecoderSpec> {
    let attention_scale = match keys.positive("attention.scale")? {
        Some(scale) => scale,
        None if spec.num_layers() == layers_of_27b => {
            let num_heads = spec.largest(|dims| dims.num_heads);
            1.0 / (spec.hidden_size as f32 / num_heads as f32).sqrt()
        }
        None => spec.attention_scale,
    };
    Ok(DecoderSpec {
        post_norms: true,
        activation: Activation::GeluTanh,
        embedding_scale: (spec.hidden_size as f32).sqrt(),
        attention_scale,
        ..spec
    })
}
