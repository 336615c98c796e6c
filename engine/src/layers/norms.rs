//! The norm before a block, and what happens between a block and that norm.

use quire_kernels::{Device, SandwichNorm, Tensor, add_rms_norm, rms_norm, sandwich_norm};

use crate::workspace::Workspace;

/// An RMS norm over the residual stream.
pub struct Norm {
    /// `[1, hidden_size]`.
    pub weight: Tensor,
    pub eps: f32,
}

/// An RMS norm over what a block adds to the residual stream, with the eps of the next `Norm`.
pub struct PostNorm {
    /// `[1, hidden_size]`.
    pub weight: Tensor,
    /// Multiplies the residual stream after the addition.
    pub scale: f32,
}

impl Norm {
    /// `hidden = norm(residual)`, of the first `n` rows.
    pub fn first(&self, device: &Device, ws: &mut Workspace, n: usize) {
        let out = ws.hidden.first_rows_mut(n);
        rms_norm(device, out, ws.residual.first_rows(n), &self.weight, self.eps);
    }

    /// `residual += block_out; hidden = norm(residual)`, of the first `n` rows; with `post`, see `sandwich_norm`.
    pub fn next(&self, device: &Device, ws: &mut Workspace, n: usize, post: Option<&PostNorm>) {
        let (out, residual) = (ws.hidden.first_rows_mut(n), ws.residual.first_rows_mut(n));
        let (x, eps) = (ws.block_out.first_rows(n), self.eps);
        match post {
            None => add_rms_norm(device, out, residual, x, &self.weight, eps),
            Some(&PostNorm { weight: ref post_weight, scale }) => {
                let norm = SandwichNorm { post_weight, scale, weight: &self.weight, eps };
                sandwich_norm(device, out, residual, x, norm);
            }
        }
    }
}
