//! The gated MLP: `down(activation(gate(x)) · up(x))` (Shazeer 2020).

use quire_kernels::{Activation, Device, LinearWeight, gated_mul, linear};

use crate::models::spec::DecoderSpec;
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

/// Weights of one layer's MLP.
pub struct Mlp {
    /// gate and up, stacked.
    gate_up: LinearWeight,
    activation: Activation,
    down: LinearWeight,
}

impl Mlp {
    pub fn load(spec: &DecoderSpec, loader: &WeightLoader) -> anyhow::Result<Self> {
        let (hidden, intermediate) = (spec.hidden_size, spec.intermediate_size);
        let parts = [("ffn_gate.weight", intermediate), ("ffn_up.weight", intermediate)];
        Ok(Self {
            // Files that have both in one tensor call it as up alone is called elsewhere.
            gate_up: loader.stacked("ffn_up.weight", &parts, hidden)?,
            activation: spec.activation,
            down: loader.linear("ffn_down.weight", hidden, intermediate)?,
        })
    }

    /// In the order of their use.
    pub fn weights_mut(&mut self) -> [&mut LinearWeight; 2] {
        [&mut self.gate_up, &mut self.down]
    }

    /// The first `n` rows of `ws.hidden` → `ws.block_out`.
    pub fn forward(&self, device: &Device, ws: &mut Workspace, n: usize) {
        let hidden = ws.hidden.first_rows(n);
        linear(device, ws.gate_up.first_rows_mut(n), hidden, &self.gate_up, None);
        let (out, gate_up) = (ws.activated.first_rows_mut(n), ws.gate_up.first_rows(n));
        gated_mul(device, out, gate_up, self.activation);
        let activated = ws.activated.first_rows(n);
        linear(device, ws.block_out.first_rows_mut(n), activated, &self.down, None);
    }
}
