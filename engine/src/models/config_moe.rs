//! Reads what config.json says of experts.

use anyhow::{Context, anyhow, bail, ensure};
use quire_kernels::{ExpertGroups, RouterScores, RouterSpec};

use super::config_keys::ConfigKeys;
use super::gguf_moe::{MAX_EXPERTS, RouterDefaults, first_expert_layer};
use super::spec::{DecoderSpec, ExpertLayout, MoeSpec, SharedExpertSpec};
use crate::weights::directory::ConfigSection;

const NUM_EXPERTS: [&str; 3] = ["num_local_experts", "num_experts", "n_routed_experts"];
/// Numbers of a block of gpt-oss.
const MXFP4_BLOCK: usize = 32;
const NUM_CHOSEN: [&str; 2] = ["num_experts_per_tok", "top_k_experts"];

impl ConfigKeys<'_> {
    /// `spec` with experts in the layers that have a router.
    pub(super) fn with_experts(
        &self,
        mut spec: DecoderSpec,
        defaults: RouterDefaults,
        layout: ExpertLayout,
    ) -> anyhow::Result<DecoderSpec> {
        let text = self.text();
        let first = first_expert_layer(&mut spec, |name| self.has_tensor(name));
        let first = first.context("config.json has experts, but no layer has a router")?;
        let has = |name: &str| self.has_tensor(&format!("blk.{first}.{name}"));
        let intermediate_size = match text.optional_dimension("moe_intermediate_size")? {
            Some(size) => size,
            None => text.dimension("intermediate_size")?,
        };
        let shared = match has("ffn_up_shexp.weight") {
            false => None,
            true => Some(SharedExpertSpec {
                intermediate_size: shared_size(&text, intermediate_size)?,
                is_gated: has("ffn_gate_inp_shexp.weight"),
            }),
        };
        spec.moe = Some(MoeSpec {
            router: router(&text, defaults)?,
            intermediate_size,
            num_channels: intermediate_size,
            block_channels: if has("ffn_down_exps.blocks") { MXFP4_BLOCK } else { 1 },
            shared,
            router_bias: has("ffn_gate_inp.bias"),
            choice_bias: has("exp_probs_b.bias"),
            expert_scales: false,
            weighs_input: false,
            expert_biases: has("ffn_down_exps.bias"),
            layout,
        });
        Ok(spec)
    }
}

/// Channels of the shared expert; several count as one that is as wide as all.
fn shared_size(text: &ConfigSection, intermediate_size: usize) -> anyhow::Result<usize> {
    if let Some(size) = text.optional_dimension("shared_expert_intermediate_size")? {
        return Ok(size);
    }
    let count = text.optional_dimension("n_shared_experts")?.unwrap_or(1);
    let size = intermediate_size.checked_mul(count).filter(|&size| size <= 1 << 24);
    size.with_context(|| format!("{} is {count}", text.name_of("n_shared_experts")))
}

fn first_of(text: &ConfigSection, keys: &[&str]) -> anyhow::Result<usize> {
    for key in keys {
        if let Some(value) = text.optional_dimension(key)? {
            return Ok(value);
        }
    }
    bail!("{} is missing", text.name_of(keys[0]))
}

fn router(text: &ConfigSection, defaults: RouterDefaults) -> anyhow::Result<RouterSpec> {
    let scores = match text.string("scoring_func")? {
        None => defaults.scores,
        Some("softmax") => RouterScores::Softmax,
        Some("sigmoid") => RouterScores::Sigmoid,
        Some(other) => bail!("{} is \"{other}\"", text.name_of("scoring_func")),
    };
    let num_groups = text.optional_dimension("n_group")?.filter(|&count| count > 1);
    let groups = match num_groups {
        None => None,
        Some(num_groups) => {
            Some(ExpertGroups { num_groups, num_chosen: text.dimension("topk_group")? })
        }
    };
    let num_experts = first_of(text, &NUM_EXPERTS)?;
    ensure!(num_experts <= MAX_EXPERTS, "{num_experts} experts are above {MAX_EXPERTS}");
    let router = RouterSpec {
        num_experts,
        num_chosen: first_of(text, &NUM_CHOSEN)?,
        scores,
        groups,
        normalises: text.bool("norm_topk_prob")?.unwrap_or(defaults.normalises),
        scale: text.positive("routed_scaling_factor")?.unwrap_or(1.0),
    };
    let named = |problem| anyhow!("{}: {problem}", text.name_of(NUM_CHOSEN[0]));
    router.check().map_err(named)?;
    Ok(router)
}
