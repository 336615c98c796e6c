//! Reads the keys and tensors of experts.

use anyhow::{Context, anyhow, bail, ensure};
use quire_kernels::{ExpertGroups, RouterScores, RouterSpec, WeightFormat};

use super::gguf_keys::Keys;
use super::spec::{DecoderSpec, ExpertLayout, FfnSpec, MoeSpec, SharedExpertSpec};

/// Most experts of a layer.
pub(super) const MAX_EXPERTS: usize = 4096;

/// What an architecture does where its files do not say it.
#[derive(Clone, Copy)]
pub(super) struct RouterDefaults {
    pub scores: RouterScores,
    pub normalises: bool,
}

/// Gives experts to the layers that have a router, and says which is the first.
pub(super) fn first_expert_layer(
    spec: &mut DecoderSpec,
    has_tensor: impl Fn(&str) -> bool,
) -> Option<usize> {
    let mut first = None;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        if has_tensor(&format!("blk.{index}.ffn_gate_inp.weight")) {
            layer.ffn = FfnSpec::Experts;
            first.get_or_insert(index);
        }
    }
    first
}

impl Keys<'_> {
    /// `spec` with experts in the layers that have a router.
    pub(super) fn with_experts(
        &self,
        mut spec: DecoderSpec,
        defaults: RouterDefaults,
    ) -> anyhow::Result<DecoderSpec> {
        let first = first_expert_layer(&mut spec, |name| self.has_tensor(name));
        let first = first.with_context(|| {
            format!("{} is set, but no layer has a router", self.key("expert_count"))
        })?;
        let has = |name: &str| self.has_tensor(&format!("blk.{first}.{name}"));
        let intermediate_size = match self.optional_dimension("expert_feed_forward_length")? {
            Some(size) => size,
            None => self.dimension("feed_forward_length")?,
        };
        let shared = match has("ffn_up_shexp.weight") {
            false => None,
            true => Some(SharedExpertSpec {
                intermediate_size: self.shared_size(intermediate_size)?,
                is_gated: has("ffn_gate_inp_shexp.weight"),
            }),
        };
        spec.moe = Some(MoeSpec {
            router: self.router(defaults)?,
            intermediate_size,
            num_channels: intermediate_size,
            block_channels: self.block_elements(&format!("blk.{first}.ffn_down_exps.weight")),
            shared,
            router_bias: has("ffn_gate_inp.bias"),
            choice_bias: has("exp_probs_b.bias"),
            expert_scales: false,
            weighs_input: false,
            expert_biases: has("ffn_down_exps.bias"),
            layout: ExpertLayout::Rows,
        });
        Ok(spec)
    }

    /// Numbers of a block of that tensor.
    fn block_elements(&self, name: &str) -> usize {
        let format = self.file.tensor(name).and_then(|it| WeightFormat::from_ggml_id(it.ggml_type));
        format.map_or(1, WeightFormat::block_elements)
    }

    /// Channels of the shared expert; several count as one that is as wide as all.
    fn shared_size(&self, intermediate_size: usize) -> anyhow::Result<usize> {
        if let Some(size) = self.optional_dimension("expert_shared_feed_forward_length")? {
            return Ok(size);
        }
        let count = self.optional_dimension("expert_shared_count")?.unwrap_or(1);
        let size = intermediate_size.checked_mul(count).filter(|&size| size <= 1 << 24);
        size.with_context(|| format!("{} is {count}", self.key("expert_shared_count")))
    }

    fn router(&self, defaults: RouterDefaults) -> anyhow::Result<RouterSpec> {
        let scores = match self.optional_dimension("expert_gating_func")? {
            None => defaults.scores,
            Some(1) => RouterScores::Softmax,
            Some(2) => RouterScores::Sigmoid,
            Some(other) => {
                bail!("{} is {other}, which is not supported", self.key("expert_gating_func"))
            }
        };
        let num_groups = self.optional_dimension("expert_group_count")?.filter(|&count| count > 1);
        let groups = match num_groups {
            None => None,
            Some(num_groups) => {
                let num_chosen = self.dimension("expert_group_used_count")?;
                Some(ExpertGroups { num_groups, num_chosen })
            }
        };
        let num_experts = self.dimension("expert_count")?;
        ensure!(
            num_experts <= MAX_EXPERTS,
            "{} is {num_experts}, above the limit of {MAX_EXPERTS}",
            self.key("expert_count")
        );
        let normalises = self.file.metadata().bool(&self.key("expert_weights_norm"))?;
        let router = RouterSpec {
            num_experts,
            num_chosen: self.dimension("expert_used_count")?,
            scores,
            groups,
            normalises: normalises.unwrap_or(defaults.normalises),
            // 0 counts as absent.
            scale: self.number("expert_weights_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0),
        };
        router
            .check()
            .map_err(|problem| anyhow!("{}: {problem}", self.key("expert_used_count")))?;
        Ok(router)
    }
}
