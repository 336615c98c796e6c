//! DeepSeek-V2 and V3 and GLM-4.7-Flash, and as `mistral4` Mistral Small 4: multi-head latent attention, and experts.

use anyhow::{Context, ensure};
use quire_kernels::{RopeStyle, RouterScores};

use super::config_keys::ConfigKeys;
use super::gguf_keys::Keys;
use super::gguf_moe::RouterDefaults;
use super::mistral3;
use super::rope::{RopeScaling, yarn_mscale};
use super::spec::{AttentionDims, DecoderSpec, ExpertLayout, LatentSpec};

const SOFTMAX: RouterDefaults = RouterDefaults { scores: RouterScores::Softmax, normalises: false };
const SIGMOID: RouterDefaults = RouterDefaults { scores: RouterScores::Sigmoid, normalises: true };
const MISTRAL: RouterDefaults = RouterDefaults { scores: RouterScores::Softmax, normalises: true };

/// Of the norms of latent vectors, whatever the other norms have.
const LATENT_EPS: f32 = 1e-6;

/// Converters write the multiplier of `YaRN`'s growth times this.
const LOG_MULTIPLIER_UNIT: f32 = 0.1;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    let rope_dim = keys.dimension("rope.dimension_count")?;
    let key_dim = keys.dimension("attention.key_length_mla")?;
    let nope_dim = key_dim.checked_sub(rope_dim).filter(|&size| size > 0);
    let latent = LatentSpec {
        query_rank: keys.optional_dimension("attention.q_lora_rank")?,
        rank: keys.dimension("attention.kv_lora_rank")?,
        rope_dim,
        nope_dim: nope_dim
            .with_context(|| format!("{} is {key_dim}", keys.key("attention.key_length_mla")))?,
        value_dim: keys.dimension("attention.value_length_mla")?,
        norm_eps: LATENT_EPS,
    };
    let spec = keys.with_head_dim(RopeStyle::Interleaved, latent.kept_dim())?;
    let multiplier = keys.number("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
    let spec = with_latent(spec, latent, multiplier / LOG_MULTIPLIER_UNIT)?;
    match keys.optional_dimension("expert_count")? {
        Some(_) => keys.with_experts(spec, SOFTMAX),
        None => Ok(spec),
    }
}

pub(super) fn mistral4(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    let spec = spec(keys)?;
    Ok(DecoderSpec { query_scale: mistral3::query_scale(keys)?, ..spec })
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    keys.with_experts(of_config(keys)?, SIGMOID, ExpertLayout::Rows)
}

pub(super) fn mistral4_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    let spec = DecoderSpec { query_scale: keys.query_scale()?, ..of_config(keys)? };
    keys.with_experts(spec, MISTRAL, ExpertLayout::Rows)
}

fn of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    let text = keys.text();
    let latent = LatentSpec {
        query_rank: text.optional_dimension("q_lora_rank")?,
        rank: text.dimension("kv_lora_rank")?,
        rope_dim: text.dimension("qk_rope_head_dim")?,
        nope_dim: text.dimension("qk_nope_head_dim")?,
        value_dim: text.dimension("v_head_dim")?,
        norm_eps: LATENT_EPS,
    };
    let mut spec = keys.llama_like()?;
    let is_interleaved = text.bool("rope_interleave")?.unwrap_or(true);
    spec.ropes[0].rotary_dim = latent.rope_dim;
    spec.ropes[0].style = if is_interleaved { RopeStyle::Interleaved } else { RopeStyle::Neox };
    let scale = keys.rope_scale("mscale_all_dim")?.unwrap_or(0.0);
    with_latent(spec, latent, scale)
}

/// `growth` multiplies the growth of scores with `YaRN`'s factor.
fn with_latent(
    mut spec: DecoderSpec,
    latent: LatentSpec,
    growth: f32,
) -> anyhow::Result<DecoderSpec> {
    let head_dim = latent.kept_dim();
    ensure!(head_dim <= 1024, "{head_dim} channels kept of a position are not supported");
    ensure!(latent.rope_dim.is_multiple_of(2), "{} channels cannot be rotated", latent.rope_dim);
    let num_heads = spec.largest(|dims| dims.num_heads);
    for layer in &mut spec.layers {
        layer.attention = AttentionDims { num_heads, num_kv_heads: 1, head_dim };
    }
    let mut scale = 1.0 / (latent.key_dim() as f32).sqrt();
    let rope = &mut spec.ropes[0];
    if let RopeScaling::Yarn { factor, .. } = rope.scaling
        && growth != 0.0
    {
        rope.attention_factor = yarn_mscale(factor, 1.0) / yarn_mscale(factor, growth);
        scale *= yarn_mscale(factor, growth).powi(2);
    }
    Ok(DecoderSpec { latent: Some(latent), attention_scale: scale, ..spec })
}
