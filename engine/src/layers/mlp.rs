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
    pub fn load(
        spec: &DecoderSpec,
        intermediate_size: usize,
        loader: &WeightLoader,
    ) -> anyhow::Result<Self> {
        let names = ["ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"];
        Self::load_named(spec, intermediate_size, loader, names)
    }

    /// The expert that every row has.
    pub fn load_shared(
        spec: &DecoderSpec,
        intermediate_size: usize,
        loader: &WeightLoader,
    ) -> anyhow::Result<Self> {
        let names = ["ffn_gate_shexp.weight", "ffn_up_shexp.weight", "ffn_down_shexp.weight"];
        Self::load_named(spec, intermediate_size, loader, names)
    }

    fn load_named(
        spec: &DecoderSpec,
        intermediate_size: usize,
        loader: &WeightLoader,
        [gate, up, down]: [&str; 3],
    ) -> anyhow::Result<Self> {
        let parts = [(gate, intermediate_size), (up, intermediate_size)];
        Ok(Self {
            // Files that have both in one tensor call it as up alone is called elsewhere.
            gate_up: loader.stacked(up, &parts, spec.hidden_size)?,
            activation: spec.activation,
            down: loader.linear(down, spec.hidden_size, intermediate_size)?,
        })
    }

    /// In the order of their use.
    pub fn weights_mut(&mut self) -> [&mut LinearWeight; 2] {
        [&mut self.gate_up, &mut self.down]
    }

    /// The first `n` rows of `ws.hidden` → `ws.block_out`.
    pub fn forward(&self, device: &Device, ws: &mut Workspace, n: usize) {
        let (hidden, size) = (ws.hidden.first_rows(n), self.down.in_features());
        let gate_up = ws.gate_up.first_rows_mut(n).columns(0..2 * size);
        linear(device, gate_up, hidden, &self.gate_up, None);
        let gate_up = ws.gate_up.first_rows(n).columns(0..2 * size);
        let activated = ws.activated.first_rows_mut(n).columns(0..size);
        gated_mul(device, activated, gate_up, self.activation);
        let activated = ws.activated.first_rows(n).columns(0..size);
        linear(device, ws.block_out.first_rows_mut(n), activated, &self.down, None);
    }
}
