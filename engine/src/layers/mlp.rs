//! The gated MLP: `down(activation(gate(x)) · up(x))` (Shazeer 2020).

use quire_kernels::{Activation, Device, Gated, Input, LinearWeight, linear};

use super::BlockNorm;
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

    /// The first `n` rows after `norm`, or those of `ws.hidden` → `ws.block_out`.
    pub fn forward(&self, device: &Device, ws: &mut Workspace, n: usize, norm: Option<BlockNorm>) {
        let Workspace { hidden, residual, block_out, gate_up, activated, .. } = ws;
        let input = match &norm {
            Some(norm) => norm.input(device, (hidden, residual), block_out, n),
            None => Input::Rows(hidden.first_rows(n)),
        };
        let size = self.down.in_features();
        let both = gate_up.first_rows_mut(n).columns(0..2 * size);
        linear(device, both, input, &self.gate_up, None);
        let gated = Gated {
            out: activated.first_rows_mut(n).columns(0..size),
            gate_up: gate_up.first_rows(n).columns(0..2 * size),
            activation: self.activation,
        };
        linear(device, block_out.first_rows_mut(n), Input::Gated(gated), &self.down, None);
    }
}
