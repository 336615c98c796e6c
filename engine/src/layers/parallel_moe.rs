//! Gemma 4's feed-forward block with experts: a gated MLP and a mixture of experts beside each other, each with norms of
//! its own; the router reads the residual stream through one more.

use quire_kernels::{
    Device, LinearWeight, RankGroup, SandwichNorm, Tensor, all_reduce, combine_experts, rms_norm,
    sandwich_norm,
};

use super::{Mlp, Moe};
use crate::models::spec::{DecoderSpec, MoeSpec};
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

/// Weights of one layer's block; norms are `[1, hidden_size]`.
pub struct ParallelMoe {
    mlp: Mlp,
    post_mlp_norm: Tensor,
    moe: Moe,
    router_norm: Tensor,
    experts_norm: Tensor,
    post_experts_norm: Tensor,
    eps: f32,
}

impl ParallelMoe {
    pub fn load(
        spec: &DecoderSpec,
        intermediate_size: usize,
        moe: &MoeSpec,
        loader: &WeightLoader,
    ) -> anyhow::Result<Self> {
        let norm = |name| loader.vector(name, spec.hidden_size);
        let mut router_norm = norm("ffn_gate_inp.scale")?;
        if !loader.is_shape_only() {
            let factor = 1.0 / (spec.hidden_size as f32).sqrt();
            let scales: Vec<f32> = router_norm.read_f32().iter().map(|s| s * factor).collect();
            router_norm.write_f32(&scales);
        }
        Ok(Self {
            mlp: Mlp::load(spec, intermediate_size, loader)?,
            post_mlp_norm: norm("post_ffw_norm_1.weight")?,
            moe: Moe::load(spec, moe, loader)?,
            router_norm,
            experts_norm: norm("pre_ffw_norm_2.weight")?,
            post_experts_norm: norm("post_ffw_norm_2.weight")?,
            eps: spec.norm_eps,
        })
    }

    /// Those that every step reads, in the order of their use.
    pub fn weights_mut(&mut self) -> impl Iterator<Item = &mut LinearWeight> {
        self.mlp.weights_mut().into_iter().chain(self.moe.weights_mut())
    }

    /// The first `n` rows of `ws.hidden` and `ws.residual` → `ws.block_out`, whole on every rank of `group`: norms need the sums.
    pub fn forward(
        &self,
        device: &Device,
        ws: &mut Workspace,
        n: usize,
        group: Option<&RankGroup>,
    ) {
        self.mlp.forward(device, ws, n, None);
        add_ranks(device, group, &mut ws.block_out, n);
        let experts = ws.experts.as_mut().expect("planned for models with experts");
        let (hidden, residual, eps) = (&mut ws.hidden, &ws.residual, self.eps);
        let (sum, mlp_out) = (&mut experts.shared_out, ws.block_out.first_rows(n));
        rms_norm(device, sum.first_rows_mut(n), mlp_out, &self.post_mlp_norm, eps);

        let residual = residual.first_rows(n);
        rms_norm(device, hidden.first_rows_mut(n), residual, &self.router_norm, eps);
        self.moe.route(device, experts, hidden, n);
        rms_norm(device, hidden.first_rows_mut(n), residual, &self.experts_norm, eps);
        self.moe.compute(device, experts, hidden, n);
        let routing = &experts.routing;
        let x = experts.out.first_rows(routing.num_places());
        combine_experts(device, ws.block_out.first_rows_mut(n), x, routing, true, None);
        add_ranks(device, group, &mut ws.block_out, n);

        // Adds the normalised output; what it leaves in `hidden` is not used.
        let norm = SandwichNorm {
            post_weight: &self.post_experts_norm,
            scale: 1.0,
            weight: &self.experts_norm,
            eps,
        };
        let (out, x) = (hidden.first_rows_mut(n), ws.block_out.first_rows(n));
        sandwich_norm(device, out, experts.shared_out.first_rows_mut(n), x, norm);
        std::mem::swap(&mut ws.block_out, &mut experts.shared_out);
    }
}

fn add_ranks(device: &Device, group: Option<&RankGroup>, x: &mut Tensor, n: usize) {
    if let Some(group) = group {
        all_reduce(device, group, x.first_rows_mut(n));
    }
}
