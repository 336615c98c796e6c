//! gpt-oss: experts with biases and a clamped gate, a sink in each head, a window on every other layer.

use quire_kernels::{Activation, RopeStyle, RouterScores};

use super::gguf_keys::Keys;
use super::gguf_moe::RouterDefaults;
use super::rope::RopeScaling;
use super::spec::DecoderSpec;

/// The chosen experts' logits go through a softmax of their own.
const ROUTER: RouterDefaults = RouterDefaults { scores: RouterScores::Softmax, normalises: true };

const ACTIVATION: Activation = Activation::ClampedSwiglu { alpha: 1.702, limit: 7.0 };

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    let mut spec = keys.with_experts(keys.llama_like(RopeStyle::Neox)?, ROUTER)?;
    // The model was trained so; files do not say it.
    if let RopeScaling::Yarn { truncate, .. } = &mut spec.ropes[0].scaling {
        *truncate = false;
    }
    let has_window = keys.layers_with_window(spec.num_layers(), 2)?;
    let spec = spec.with_window(keys.window()?, |layer| has_window[layer]);
    Ok(DecoderSpec { sinks: true, activation: ACTIVATION, ..spec })
}
