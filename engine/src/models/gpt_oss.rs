//! gpt-oss: experts with biases and a clamped gate, a sink in each head, a window on every other layer.

use quire_kernels::{Activation, RopeStyle, RouterScores};

use super::config_keys::ConfigKeys;
use super::gguf_keys::Keys;
use super::gguf_moe::RouterDefaults;
use super::rope::RopeScaling;
use super::spec::{DecoderSpec, ExpertLayout};

/// The chosen experts' logits go through a softmax of their own.
const ROUTER: RouterDefaults = RouterDefaults { scores: RouterScores::Softmax, normalises: true };

const ALPHA: f32 = 1.702;
const LIMIT: f32 = 7.0;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    let mut spec = keys.with_experts(keys.llama_like(RopeStyle::Neox)?, ROUTER)?;
    // The model was trained so; files do not say it.
    if let RopeScaling::Yarn { truncate, .. } = &mut spec.ropes[0].scaling {
        *truncate = false;
    }
    let has_window = keys.layers_with_window(spec.num_layers(), 2)?;
    let spec = spec.with_window(keys.window()?, |layer| has_window[layer]);
    let activation = Activation::ClampedSwiglu { alpha: ALPHA, limit: LIMIT };
    Ok(DecoderSpec { sinks: true, activation, ..spec })
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    let text = keys.text();
    let limit = text.positive("swiglu_limit")?.unwrap_or(LIMIT);
    let alpha = text.positive("swiglu_alpha")?.unwrap_or(ALPHA);
    let activation = Activation::ClampedSwiglu { alpha, limit };
    let spec = DecoderSpec { sinks: true, activation, ..keys.llama_like()? };
    keys.with_experts(spec, ROUTER, ExpertLayout::InterleavedColumns)
}
