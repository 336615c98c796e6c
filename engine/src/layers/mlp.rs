//! The gated MLP: `down(silu(gate(x)) · up(x))` (Shazeer 2020).

use quire_kernels::{Device, LinearWeight, linear, silu_mul};

use crate::models::spec::DecoderSpec;
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

/// Weights of one layer's MLP.
pub struct Mlp {
    /// gate and up, stacked.
    gate_up: LinearWeight,
    down: LinearWeight,
}

impl Mlp {
    pub fn load(spec: &DecoderSpec, loader: &WeightLoader) -> anyhow::Result<Self> {
        let (hidden, intermediate) = (spec.hidden_size, spec.intermediate_size);
        let parts = [("ffn_gate.weight", intermediate), ("ffn_up.weight", intermediate)];
        Ok(Self {
            gate_up: loader.stacked(&parts, hidden)?,
            down: loader.linear("ffn_down.weight", hidden, intermediate)?,
        })
    }

    /// The first `n` rows of `ws.hidden` → `ws.block_out`.
    pub fn forward(&self, device: &Device, ws: &mut Workspace, n: usize) {
        let hidden = ws.hidden.first_rows(n);
        linear(device, ws.gate_up.first_rows_mut(n), hidden, &self.gate_up, None);
        silu_mul(device, ws.activated.first_rows_mut(n), ws.gate_up.first_rows(n));
        let activated = ws.activated.first_rows(n);
        linear(device, ws.block_out.first_rows_mut(n), activated, &self.down, None);
    }
}
