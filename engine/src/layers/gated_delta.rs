//! Gated DeltaNet (Yang et al. 2024): a block that keeps a state of fixed size in place of keys and values.

use quire_kernels::{
    Device, GatedDelta, LinearWeight, RecurrentLayer, Tensor, causal_conv, gated_delta, linear,
};

use super::{BlockNorm, OutputProjection};
use crate::models::spec::{DecoderSpec, RecurrentSpec};
use crate::step_input::StepInput;
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

/// Weights of one layer's block.
pub struct GatedDeltaNet {
    spec: RecurrentSpec,
    /// q, k, v, z, b and a, stacked.
    projections: LinearWeight,
    /// `[taps, q | k | v]`.
    convolution: Tensor,
    rates: Tensor,
    dt_bias: Tensor,
    norm: Tensor,
    norm_eps: f32,
    pub output: OutputProjection,
}

impl GatedDeltaNet {
    pub fn load(
        spec: &DecoderSpec,
        recurrent: &RecurrentSpec,
        loader: &WeightLoader,
    ) -> anyhow::Result<Self> {
        let heads = &recurrent.heads;
        let (hidden, value_heads) = (spec.hidden_size, heads.num_value_heads);
        let rates = match recurrent.has_log_rates {
            true => loader.changed_vector("ssm_a", value_heads, |rate| -rate.exp())?,
            false => loader.vector("ssm_a", value_heads)?,
        };
        let output = loader.linear("ssm_out.weight", hidden, heads.value_size())?;
        Ok(Self {
            spec: *recurrent,
            projections: projections(recurrent, hidden, loader)?,
            convolution: loader.taps("ssm_conv1d.weight", heads.qkv_size(), recurrent.taps)?,
            rates,
            dt_bias: loader.vector("ssm_dt.bias", value_heads)?,
            norm: loader.vector("ssm_norm.weight", heads.value_dim)?,
            norm_eps: spec.norm_eps,
            output: OutputProjection { weight: output, bias: None },
        })
    }

    /// In the order of their use.
    pub fn weights_mut(&mut self) -> [&mut LinearWeight; 2] {
        [&mut self.projections, &mut self.output.weight]
    }

    /// The rows of the step after `norm` → `ws.attention_out`, moving the states of this step's sequences.
    pub fn attend(
        &self,
        device: &Device,
        ws: &mut Workspace,
        norm: BlockNorm,
        states: &mut RecurrentLayer,
        step: &StepInput,
    ) {
        let (n, spec) = (step.num_tokens(), self.spec.heads);
        let (qkv, all) = (spec.qkv_size(), self.spec.projected_size());
        let Workspace { hidden, residual, block_out, qkv: projected, .. } = ws;
        let input = norm.input(device, (hidden, residual), block_out, n);
        let projected = projected.first_rows_mut(n).columns(0..all);
        linear(device, projected, input, &self.projections, None);
        let projected = ws.qkv.first_rows(n);
        let convolved = ws.convolved.as_mut().expect("models with Gated DeltaNet have the buffer");
        let (out, x) = (convolved.first_rows_mut(n), projected.columns(0..qkv));
        causal_conv(device, out, x, &self.convolution, states, &step.states);
        let z = projected.columns(qkv..qkv + spec.value_size());
        let ba = projected.columns(qkv + spec.value_size()..all);
        let args = GatedDelta {
            spec,
            rates: &self.rates,
            dt_bias: &self.dt_bias,
            norm: &self.norm,
            eps: self.norm_eps,
        };
        let out = ws.attention_out.first_rows_mut(n).columns(0..spec.value_size());
        let qkv = convolved.first_rows_mut(n);
        gated_delta(device, out, qkv, (z, ba), &args, states, &step.states);
    }
}

fn projections(
    recurrent: &RecurrentSpec,
    hidden: usize,
    loader: &WeightLoader,
) -> anyhow::Result<LinearWeight> {
    let heads = &recurrent.heads;
    let value_heads = heads.num_value_heads;
    if !recurrent.is_fused {
        return Ok(LinearWeight::stack(vec![
            loader.linear("attn_qkv.weight", heads.qkv_size(), hidden)?,
            loader.linear("attn_gate.weight", heads.value_size(), hidden)?,
            loader.linear("ssm_beta.weight", value_heads, hidden)?,
            loader.linear("ssm_alpha.weight", value_heads, hidden)?,
        ]));
    }
    // A group of rows for each key head: q, k, and v and z of its value heads; b and a of these.
    let key_dim = heads.key_dim;
    let shared = value_heads / heads.num_key_heads;
    let group = 2 * key_dim + 2 * shared * heads.value_dim;
    let of_groups = |group: usize, first: usize, len: usize| {
        (0..heads.num_key_heads).map(move |head| {
            let start = head * group + first;
            start..start + len
        })
    };
    let values = shared * heads.value_dim;
    let rows = of_groups(group, 0, key_dim)
        .chain(of_groups(group, key_dim, key_dim))
        .chain(of_groups(group, 2 * key_dim, values))
        .chain(of_groups(group, 2 * key_dim + values, values));
    let qkvz_size = heads.qkv_size() + heads.value_size();
    let qkvz = loader.linear_of_rows("ssm_qkvz.weight", (qkvz_size, hidden), rows)?;
    let rows = of_groups(2 * shared, 0, shared).chain(of_groups(2 * shared, shared, shared));
    let ba = loader.linear_of_rows("ssm_ba.weight", (2 * value_heads, hidden), rows)?;
    Ok(LinearWeight::stack(vec![qkvz, ba]))
}
