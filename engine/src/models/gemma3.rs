//! Gemma 3 (text): norms around each block and on heads; five layers with a window and a fast rotation, then one without.

use quire_kernels::RopeStyle;

use super::config_keys::{ConfigKeys, Defaults};
use super::gemma::{attention_scale, attention_scale_of_config, gemma_like};
use super::gguf_keys::Keys;
use super::rope::{RopeScaling, RopeSpec};
use super::spec::DecoderSpec;

const LAYERS_OF_27B: usize = 62;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    let spec = gemma_like(keys.llama_like(RopeStyle::Neox)?);
    let has_window = keys.layers_with_window(spec.num_layers(), 6)?;
    let mut spec = DecoderSpec {
        attention_scale: attention_scale(keys, &spec, LAYERS_OF_27B)?,
        logits_softcap: keys.positive("final_logit_softcapping")?,
        ..spec.with_window(keys.window()?, |layer| has_window[layer])
    };
    let theta = keys.positive("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let near = RopeSpec { theta, scaling: RopeScaling::None, ..spec.ropes[0].clone() };
    spec.ropes.push(near);
    for (layer, _) in spec.layers.iter_mut().zip(has_window).filter(|(_, windowed)| *windowed) {
        layer.rope = Some(1);
    }
    Ok(spec)
}

/// What configurations may leave out.
const DEFAULTS: Defaults = Defaults {
    num_heads: Some(8),
    num_kv_heads: Some(4),
    head_dim: Some(256),
    norm_eps: Some(1e-6),
    context_length: Some(131_072),
    window_period: Some(6),
};

/// Of layers without a window, where older configurations leave it out.
const FAR_THETA: f32 = 1_000_000.0;

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    let text = keys.text();
    let spec = gemma_like(keys.llama_like_with(DEFAULTS)?);
    let mut spec = DecoderSpec {
        attention_scale: attention_scale_of_config(keys, 256.0)?,
        attention_softcap: text.positive("attn_logit_softcapping")?,
        logits_softcap: text.positive("final_logit_softcapping")?,
        ..spec
    };
    let head_dim = spec.largest(|dims| dims.head_dim);
    let near = if text.has("rope_parameters") {
        keys.rope(head_dim, "sliding_attention")?
    } else {
        let theta = text.positive("rope_local_base_freq")?.unwrap_or(10_000.0);
        if !text.has("rope_theta") {
            spec.ropes[0].theta = FAR_THETA;
        }
        RopeSpec { theta, scaling: RopeScaling::None, ..spec.ropes[0].clone() }
    };
    spec.ropes.push(near);
    for layer in spec.layers.iter_mut().filter(|layer| layer.window.is_some()) {
        layer.rope = Some(1);
    }
    Ok(spec)
}
