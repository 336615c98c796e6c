//! A mixture of experts (Shazeer et al. 2017): a router gives each row a few gated MLPs; one more may serve every row.

use quire_kernels::{
    Activation, Device, ExpertInput, ExpertWeights, Gated, LinearWeight, RouteExperts,
    SharedExpert, Tensor, combine_experts, expert_linear, linear, route_experts, weigh_experts,
};

use super::Mlp;
use crate::models::spec::{DecoderSpec, MoeSpec};
use crate::weights::WeightLoader;
use crate::workspace::{ExpertWorkspace, Workspace};

/// Weights of one layer's experts.
pub struct Moe {
    spec: MoeSpec,
    router: LinearWeight,
    router_bias: Option<Tensor>,
    choice_bias: Option<Tensor>,
    expert_scales: Option<Tensor>,
    /// gate and up of each expert, stacked.
    gate_up: ExpertWeights,
    activation: Activation,
    down: ExpertWeights,
    shared: Option<Mlp>,
    shared_gate: Option<LinearWeight>,
}

impl Moe {
    pub fn load(spec: &DecoderSpec, moe: &MoeSpec, loader: &WeightLoader) -> anyhow::Result<Self> {
        let (hidden, num_experts) = (spec.hidden_size, moe.router.num_experts);
        let per_expert =
            |is_there: bool, name| is_there.then(|| loader.vector(name, num_experts)).transpose();
        let (gate_up, down) = loader.experts(moe, hidden)?;
        let shared =
            moe.shared.map(|shared| Mlp::load_shared(spec, shared.intermediate_size, loader));
        let gate = moe.shared.filter(|shared| shared.is_gated);
        let gate = gate.map(|_| loader.linear("ffn_gate_inp_shexp.weight", 1, hidden));
        Ok(Self {
            spec: *moe,
            router: loader.linear("ffn_gate_inp.weight", num_experts, hidden)?,
            router_bias: per_expert(moe.router_bias, "ffn_gate_inp.bias")?,
            choice_bias: per_expert(moe.choice_bias, "exp_probs_b.bias")?,
            expert_scales: per_expert(moe.expert_scales, "ffn_down_exps.scale")?,
            gate_up,
            activation: spec.activation,
            down,
            shared: shared.transpose()?,
            shared_gate: gate.transpose()?,
        })
    }

    /// Those that every step reads, in the order of their use.
    pub fn weights_mut(&mut self) -> impl Iterator<Item = &mut LinearWeight> {
        let shared = self.shared.iter_mut().flat_map(Mlp::weights_mut);
        [&mut self.router].into_iter().chain(shared)
    }

    /// The first `n` rows of `ws.hidden` → `ws.block_out`.
    pub fn forward(&self, device: &Device, ws: &mut Workspace, n: usize) {
        if let Some(shared) = &self.shared {
            shared.forward(device, ws, n, None);
        }
        let experts = ws.experts.as_mut().expect("planned for models with experts");
        let (hidden, block_out) = (&ws.hidden, &mut ws.block_out);
        if self.shared.is_some() {
            std::mem::swap(&mut experts.shared_out, block_out);
        }
        self.route(device, experts, hidden, n);
        self.compute(device, experts, hidden, n);
        if let Some(gate) = &self.shared_gate {
            let out = experts.shared_gate.first_rows_mut(n);
            linear(device, out, hidden.first_rows(n), gate, None);
        }
        let shared = self.shared.as_ref().map(|_| SharedExpert {
            out: experts.shared_out.first_rows(n),
            gate: self.shared_gate.as_ref().map(|_| experts.shared_gate.first_rows(n)),
        });
        let routing = &experts.routing;
        let x = experts.out.first_rows(routing.num_places());
        let weighted = !self.spec.weighs_input;
        combine_experts(device, block_out.first_rows_mut(n), x, routing, weighted, shared);
    }

    /// `hidden` → `experts.routing`.
    pub(super) fn route(
        &self,
        device: &Device,
        experts: &mut ExpertWorkspace,
        hidden: &Tensor,
        n: usize,
    ) {
        let hidden = hidden.first_rows(n);
        let logits = experts.router_logits.first_rows_mut(n);
        linear(device, logits, hidden, &self.router, self.router_bias.as_ref());
        let args = RouteExperts {
            spec: &self.spec.router,
            choice_bias: self.choice_bias.as_ref(),
            expert_scales: self.expert_scales.as_ref(),
        };
        let logits = experts.router_logits.first_rows(n);
        route_experts(device, &mut experts.routing, logits, &args);
    }

    /// `hidden` → `experts.out`, a row for each row and each of its experts.
    pub(super) fn compute(
        &self,
        device: &Device,
        experts: &mut ExpertWorkspace,
        hidden: &Tensor,
        n: usize,
    ) {
        let hidden = hidden.first_rows(n);
        let ExpertWorkspace { routing, gate_up, activated, out, .. } = experts;
        let places = routing.num_places();
        let both = gate_up.first_rows_mut(places);
        expert_linear(device, both, ExpertInput::Rows(hidden), &self.gate_up, routing);
        if self.spec.weighs_input {
            // The product is linear, so the weight may follow it.
            weigh_experts(device, gate_up.first_rows_mut(places), routing);
        }
        let gated = Gated {
            out: activated.first_rows_mut(places),
            gate_up: gate_up.first_rows(places),
            activation: self.activation,
        };
        let out = out.first_rows_mut(places);
        expert_linear(device, out, ExpertInput::Gated(gated), &self.down, routing);
    }
}
