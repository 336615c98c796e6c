//! Llama 4: three layers that see a chunk of the context, then one that sees all of it without encoding positions; the
//! scores of experts, of which each row has one beside the shared one, multiply what they read.

use quire_kernels::{RopeStyle, RouterScores};

use super::config_keys::ConfigKeys;
use super::gguf_keys::Keys;
use super::gguf_moe::RouterDefaults;
use super::spec::{DecoderSpec, ExpertLayout, FfnSpec, MoeSpec, QueryScale};

const ROUTER: RouterDefaults = RouterDefaults { scores: RouterScores::Sigmoid, normalises: false };

/// What files do not say, because all released models have it.
const CHUNK: usize = 8192;
const NOPE_INTERVAL: usize = 4;
const TEMPERATURE_SCALE: f32 = 0.1;
const TEMPERATURE_LENGTH: usize = 8192;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    let spec = keys.with_experts(keys.llama_like(RopeStyle::Interleaved)?, ROUTER)?;
    let beta = keys.number("attention.temperature_scale")?.unwrap_or(TEMPERATURE_SCALE);
    let length = keys.optional_dimension("attention.temperature_length")?;
    let chunk = keys.optional_dimension("attention.chunk_size")?.unwrap_or(CHUNK);
    let has_rope: Vec<bool> =
        (1..=spec.num_layers()).map(|layer| !layer.is_multiple_of(NOPE_INTERVAL)).collect();
    // Scout normalises q and k; Maverick, with experts in every other layer, does not.
    let step = keys.optional_dimension("interleave_moe_layer_step")?.unwrap_or(1);
    Ok(DecoderSpec {
        plain_qk_norm: step == 1,
        query_scale: Some(temperature(beta, length.unwrap_or(TEMPERATURE_LENGTH))),
        ..of_llama4(spec, &has_rope, chunk)
    })
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    let text = keys.text();
    let mut spec = keys.llama_like()?;
    spec.ropes[0].style = RopeStyle::Interleaved;
    if let Some(size) = text.optional_dimension("intermediate_size_mlp")? {
        spec.layers.iter_mut().for_each(|layer| layer.ffn = FfnSpec::Dense(size));
    }
    let spec = keys.with_experts(spec, ROUTER, ExpertLayout::Columns)?;
    let num_layers = spec.num_layers();
    let has_rope: Vec<bool> = match text.counts("no_rope_layers")? {
        Some(layers) => layers.into_iter().map(|has_rope| has_rope != 0).collect(),
        None => (1..=num_layers).map(|layer| !layer.is_multiple_of(NOPE_INTERVAL)).collect(),
    };
    let chunk = text.optional_dimension("attention_chunk_size")?.unwrap_or(CHUNK);
    let mut query_scale = None;
    if text.bool("attn_temperature_tuning")?.unwrap_or(true) {
        let beta = text.positive("attn_scale")?.unwrap_or(TEMPERATURE_SCALE);
        let length = text.optional_dimension("floor_scale")?.unwrap_or(TEMPERATURE_LENGTH);
        query_scale = Some(temperature(beta, length));
    }
    let plain_qk_norm = text.bool("use_qk_norm")?.unwrap_or(true);
    Ok(DecoderSpec { plain_qk_norm, query_scale, ..of_llama4(spec, &has_rope, chunk) })
}

fn of_llama4(mut spec: DecoderSpec, has_rope: &[bool], chunk: usize) -> DecoderSpec {
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        if has_rope.get(index).copied().unwrap_or(true) {
            layer.chunk = Some(chunk as u32);
        } else {
            layer.rope = None;
        }
    }
    let moe = spec.moe.map(|moe| MoeSpec { weighs_input: true, ..moe });
    DecoderSpec { moe, ..spec }
}

fn temperature(beta: f32, length: usize) -> QueryScale {
    QueryScale { beta, original_context_length: length as u32, offset: 1, without_rope: true }
}
