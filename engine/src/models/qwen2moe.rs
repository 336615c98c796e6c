//! Qwen1.5 and Qwen2 with experts: one more expert, behind a gate, serves every row.

use quire_kernels::{RopeStyle, RouterScores};

use super::config_keys::ConfigKeys;
use super::gguf_keys::Keys;
use super::gguf_moe::RouterDefaults;
use super::spec::{DecoderSpec, ExpertLayout};

const ROUTER: RouterDefaults = RouterDefaults { scores: RouterScores::Softmax, normalises: false };

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    keys.with_experts(keys.llama_like(RopeStyle::Neox)?, ROUTER)
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    let spec = DecoderSpec { qkv_bias: true, ..keys.llama_like()? };
    keys.with_experts(spec, ROUTER, ExpertLayout::Rows)
}
