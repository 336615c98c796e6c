//! Gemma 2: norms around each block, soft caps, and a window on every other layer.

use quire_kernels::RopeStyle;

use super::config_keys::{ConfigKeys, Defaults};
use super::gemma::{attention_scale, attention_scale_of_config, gemma_like};
use super::gguf_keys::Keys;
use super::spec::DecoderSpec;

const LAYERS_OF_27B: usize = 46;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    let spec = gemma_like(keys.llama_like(RopeStyle::Neox)?);
    let has_window = keys.layers_with_window(spec.num_layers(), 2)?;
    Ok(DecoderSpec {
        attention_scale: attention_scale(keys, &spec, LAYERS_OF_27B)?,
        qk_norm: false,
        attention_softcap: Some(keys.positive("attn_logit_softcapping")?.unwrap_or(50.0)),
        logits_softcap: Some(keys.positive("final_logit_softcapping")?.unwrap_or(30.0)),
        ..spec.with_window(keys.window()?, |layer| has_window[layer])
    })
}

/// What configurations may leave out.
const DEFAULTS: Defaults = Defaults {
    num_heads: Some(8),
    num_kv_heads: Some(4),
    head_dim: Some(256),
    norm_eps: Some(1e-6),
    context_length: Some(8192),
    window_period: Some(2),
};

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    let text = keys.text();
    let spec = gemma_like(keys.llama_like_with(DEFAULTS)?);
    Ok(DecoderSpec {
        attention_scale: attention_scale_of_config(keys, 256.0)?,
        qk_norm: false,
        attention_softcap: text.positive("attn_logit_softcapping")?,
        logits_softcap: text.positive("final_logit_softcapping")?,
        ..spec
    })
}
