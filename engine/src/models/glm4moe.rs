//! GLM-4.5, 4.6 and 4.7: sigmoid scores with a bias of the choice, and an expert for every row, after some dense layers.

use quire_kernels::{RopeStyle, RouterScores};

use super::config_keys::ConfigKeys;
use super::gguf_keys::Keys;
use super::gguf_moe::RouterDefaults;
use super::spec::{DecoderSpec, ExpertLayout};

const ROUTER: RouterDefaults = RouterDefaults { scores: RouterScores::Sigmoid, normalises: true };

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    let mut spec = keys.llama_like(RopeStyle::Neox)?;
    // The last blocks write drafts.
    let num_drafting = keys.optional_dimension("nextn_predict_layers")?.unwrap_or(0);
    spec.layers.truncate(spec.num_layers().saturating_sub(num_drafting).max(1));
    let qk_norm = keys.has_tensor("blk.0.attn_q_norm.weight");
    keys.with_experts(DecoderSpec { qk_norm, ..spec }, ROUTER)
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    let qk_norm = keys.text().bool("use_qk_norm")?.unwrap_or(false);
    let spec = DecoderSpec { qk_norm, ..keys.llama_like()? };
    keys.with_experts(spec, ROUTER, ExpertLayout::Rows)
}
