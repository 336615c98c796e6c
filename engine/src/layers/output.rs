//! The projection that ends a block of attention, from `ws.attention_out` to `ws.block_out`.

use quire_kernels::{Device, Indices, LinearWeight, Tensor, gather_rows, linear};

use crate::workspace::Workspace;

/// Weights of the projection; its input has as many columns as the weight.
pub struct OutputProjection {
    pub weight: LinearWeight,
    pub bias: Option<Tensor>,
}

impl OutputProjection {
    /// The first `n` rows.
    pub fn project(&self, device: &Device, ws: &mut Workspace, n: usize) {
        self.project_from(device, &mut ws.block_out, &ws.attention_out, n);
    }

    /// As `project`, with only the rows `kept` of the step, and those of `ws.residual`, from here on.
    pub fn project_rows(&self, device: &Device, ws: &mut Workspace, kept: Indices) {
        let (n, columns) = (kept.len(), 0..self.weight.in_features());
        gather_rows(device, ws.kept.first_rows_mut(n), ws.residual.view(), kept);
        std::mem::swap(&mut ws.kept, &mut ws.residual);
        // What the block projected at first has been read.
        let attended = ws.qkv.first_rows_mut(n).columns(columns.clone());
        gather_rows(device, attended, ws.attention_out.view().columns(columns), kept);
        self.project_from(device, &mut ws.block_out, &ws.qkv, n);
    }

    fn project_from(&self, device: &Device, out: &mut Tensor, attended: &Tensor, n: usize) {
        let x = attended.first_rows(n).columns(0..self.weight.in_features());
        linear(device, out.first_rows_mut(n), x, &self.weight, self.bias.as_ref());
    }
}
