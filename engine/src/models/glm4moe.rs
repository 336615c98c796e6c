//! GLM-4.5, 4.6 and 4.7: sigmoid scores with a bias of the choice, and an expert for every row, after some dense layers.

use quire_kernels::{RopeStyle, RouterScores};

use super::gguf_keys::Keys;
use super::gguf_moe::RouterDefaults;
use super::spec::DecoderSpec;

const ROUTER: RouterDefaults = RouterDefaults { scores: RouterScores::Sigmoid, normalises: true };

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    let mut spec = keys.llama_like(RopeStyle::Neox)?;
    // The last blocks write drafts.
    let num_drafting = keys.optional_dimension("nextn_predict_layers")?.unwrap_or(0);
    spec.layers.truncate(spec.num_layers().saturating_sub(num_drafting).max(1));
    let qk_norm = keys.has_tensor("blk.0.attn_q_norm.weight");
    keys.with_experts(DecoderSpec { qk_norm, ..spec }, ROUTER)
}
