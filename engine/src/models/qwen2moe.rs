//! Qwen1.5 and Qwen2 with experts: one more expert, behind a gate, serves every row.

use quire_kernels::{RopeStyle, RouterScores};

use super::gguf_keys::Keys;
use super::gguf_moe::RouterDefaults;
use super::spec::DecoderSpec;

const ROUTER: RouterDefaults = RouterDefaults { scores: RouterScores::Softmax, normalises: false };

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    keys.with_experts(keys.llama_like(RopeStyle::Neox)?, ROUTER)
}
