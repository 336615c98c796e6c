//! Qwen3 with experts, as Qwen3-30B-A3B.

use quire_kernels::{RopeStyle, RouterScores};

use super::config_keys::ConfigKeys;
use super::gguf_keys::Keys;
use super::gguf_moe::RouterDefaults;
use super::spec::{DecoderSpec, ExpertLayout};

/// All released models normalise the weights, and files do not say it.
const ROUTER: RouterDefaults = RouterDefaults { scores: RouterScores::Softmax, normalises: true };

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    let spec = DecoderSpec { qk_norm: true, ..keys.llama_like(RopeStyle::Neox)? };
    keys.with_experts(spec, ROUTER)
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    let defaults = RouterDefaults { normalises: false, ..ROUTER };
    let spec = DecoderSpec { qk_norm: true, ..keys.llama_like()? };
    keys.with_experts(spec, defaults, ExpertLayout::Rows)
}
