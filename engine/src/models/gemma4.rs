//! Gemma 4 (text): as Gemma 3, with wider heads in the layers without a window, normalised values, values that
//! may share the weight of keys, and a scale for each layer's output. In E2B and E4B the last layers read the keys and values
//! of earlier ones, and each layer has embeddings of its own.

use anyhow::{Context, ensure};
use quire_kernels::{RopeStyle, RouterScores};

use super::config_keys::{ConfigKeys, Defaults};
use super::gemma::gemma_like;
use super::gguf_keys::Keys;
use super::gguf_moe::RouterDefaults;
use super::rope::{RopeScaling, RopeSpec};
use super::spec::{AttentionDims, DecoderSpec, ExpertLayout, FfnSpec, MoeSpec};

const ROUTER: RouterDefaults = RouterDefaults { scores: RouterScores::Softmax, normalises: true };

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    let spec = gemma_like(keys.llama_like(RopeStyle::Neox)?);
    let has_window = keys.layers_with_window(spec.num_layers(), 6)?;
    let mut spec = DecoderSpec {
        value_norm: true,
        layer_scales: true,
        attention_scale: 1.0,
        logits_softcap: keys.positive("final_logit_softcapping")?,
        per_layer_inputs: keys.optional_dimension("embedding_length_per_layer_input")?,
        ..spec.with_window(keys.window()?, |layer| has_window[layer])
    };
    let (key_length, value_length) = ("attention.key_length_swa", "attention.value_length_swa");
    let head_dim = keys.head_dim(key_length, value_length, spec.largest(|dims| dims.head_dim))?;
    let rotary_dim = keys.rotary_dim("rope.dimension_count_swa", head_dim)?;
    let theta = keys.positive("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let scaling = RopeScaling::None;
    spec.ropes.push(RopeSpec { theta, rotary_dim, scaling, ..spec.ropes[0].clone() });
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        if has_window[index] {
            layer.attention.head_dim = head_dim;
            layer.rope = Some(1);
        }
        layer.shares_key_weight = !keys.has_tensor(&format!("blk.{index}.attn_v.weight"));
    }
    share_kv(&mut spec, keys.optional_dimension("attention.shared_kv_layers")?.unwrap_or(0))?;
    match keys.optional_dimension("expert_count")? {
        None => Ok(spec),
        Some(_) => Ok(beside_mlp(keys.with_experts(spec.clone(), ROUTER)?, &spec)),
    }
}

/// The last `count` layers read the keys and values of the last layer before all of them that has the same window or none.
fn share_kv(spec: &mut DecoderSpec, count: usize) -> anyhow::Result<()> {
    let num_layers = spec.num_layers();
    let first = num_layers.checked_sub(count).filter(|&first| first > 0);
    let first = first.with_context(|| format!("{count} of {num_layers} layers share keys"))?;
    let (own, shared) = spec.layers.split_at_mut(first);
    for (index, layer) in shared.iter_mut().enumerate() {
        let source = own.iter().rposition(|other| other.window == layer.window);
        let index = first + index;
        let source = source.with_context(|| format!("layer {index} finds no keys to share"))?;
        let (ours, theirs) = (layer.attention, own[source].attention);
        ensure!(
            (ours.num_kv_heads, ours.head_dim) == (theirs.num_kv_heads, theirs.head_dim),
            "layer {index} cannot share the keys of layer {source}: {ours:?}, {theirs:?}"
        );
        layer.kv_of = Some(source);
        layer.shares_key_weight = false;
    }
    Ok(())
}

/// The experts stand beside the MLP that `dense` has in their place.
fn beside_mlp(mut spec: DecoderSpec, dense: &DecoderSpec) -> DecoderSpec {
    for (layer, dense) in spec.layers.iter_mut().zip(&dense.layers) {
        if let (FfnSpec::Experts, FfnSpec::Dense(size)) = (layer.ffn, dense.ffn) {
            layer.ffn = FfnSpec::Parallel(size);
        }
    }
    let moe = spec.moe.map(|moe| MoeSpec { expert_scales: true, ..moe });
    DecoderSpec { moe, ..spec }
}

/// What configurations may leave out.
const DEFAULTS: Defaults = Defaults {
    num_heads: None,
    num_kv_heads: None,
    head_dim: Some(256),
    norm_eps: Some(1e-6),
    context_length: Some(131_072),
    window_period: Some(6),
};

/// Channels of a head in layers without a window.
const FAR_HEAD_DIM: usize = 512;

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    let text = keys.text();
    let mut spec = DecoderSpec {
        value_norm: true,
        layer_scales: true,
        attention_scale: 1.0,
        logits_softcap: text.positive("final_logit_softcapping")?,
        per_layer_inputs: text.optional_dimension("hidden_size_per_layer_input")?,
        ..gemma_like(keys.llama_like_with(DEFAULTS)?)
    };
    let near_head_dim = spec.largest(|dims| dims.head_dim);
    let per_layer = text.section("per_layer_config")?;
    let far_head_dim = text.optional_dimension("global_head_dim")?.unwrap_or(FAR_HEAD_DIM);
    let far_kv_heads = text.optional_dimension("num_global_key_value_heads")?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        if layer.window.is_some() {
            layer.rope = Some(1);
        } else {
            layer.attention.head_dim = far_head_dim;
            let num_kv_heads = layer.attention.num_kv_heads;
            layer.attention.num_kv_heads = far_kv_heads.unwrap_or(num_kv_heads);
        }
        let own = per_layer.as_ref().map(|section| section.section(&index.to_string()));
        if let Some(own) = own.transpose()?.flatten() {
            let dims = &mut layer.attention;
            dims.head_dim = own.optional_dimension("head_dim")?.unwrap_or(dims.head_dim);
            let num_kv_heads = own.optional_dimension("num_key_value_heads")?;
            dims.num_kv_heads = num_kv_heads.unwrap_or(dims.num_kv_heads);
        }
        let AttentionDims { num_heads, num_kv_heads, head_dim } = layer.attention;
        ensure!(
            num_heads.is_multiple_of(num_kv_heads) && head_dim <= 1024,
            "layer {index}: {num_heads} heads, {num_kv_heads} KV heads, {head_dim} channels"
        );
        layer.shares_key_weight = !keys.has_tensor(&format!("blk.{index}.attn_v.weight"));
    }
    let far = spec.layers.iter().find(|layer| layer.window.is_none());
    let far_head_dim = far.map_or(far_head_dim, |layer| layer.attention.head_dim);
    spec.ropes = vec![
        keys.rope(far_head_dim, "full_attention")?,
        keys.rope(near_head_dim, "sliding_attention")?,
    ];
    share_kv(&mut spec, text.optional_dimension("num_kv_shared_layers")?.unwrap_or(0))?;
    if text.bool("use_double_wide_mlp")?.unwrap_or(false) {
        for layer in spec.layers.iter_mut().filter(|layer| layer.kv_of.is_some()) {
            if let FfnSpec::Dense(size) = &mut layer.ffn {
                *size *= 2;
            }
        }
    }
    if text.bool("enable_moe_block")?.unwrap_or(false) {
        let experts = keys.with_experts(spec.clone(), ROUTER, ExpertLayout::Rows)?;
        return Ok(beside_mlp(experts, &spec));
    }
    Ok(spec)
}
