//! Llama 2 and 3, Mistral, Mixtral, SmolLM2 and all that converters write as `llama`.

use quire_kernels::{RopeStyle, RouterScores};

use super::config_keys::ConfigKeys;
use super::gguf_keys::Keys;
use super::gguf_moe::RouterDefaults;
use super::spec::{DecoderSpec, ExpertLayout};

/// Mixtral's.
pub(super) const ROUTER: RouterDefaults =
    RouterDefaults { scores: RouterScores::Softmax, normalises: true };

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    // Converters permute q and k, so that neighbouring channels form the pairs.
    let spec = keys.llama_like(RopeStyle::Interleaved)?.with_window(keys.window()?, |_| true);
    match keys.optional_dimension("expert_count")? {
        Some(_) => keys.with_experts(spec, ROUTER),
        None => Ok(spec),
    }
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    keys.llama_like()
}

pub(super) fn mixtral_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    keys.with_experts(keys.llama_like()?, ROUTER, ExpertLayout::Rows)
}
