//! The norm before a block, and what happens between the block before and that norm.

use quire_kernels::{AddNorm, Device, Input, SandwichNorm, Tensor, rms_norm, sandwich_norm};

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

/// What a block begins with: its norm, and what is added to the residual stream before.
#[derive(Clone, Copy)]
pub struct BlockNorm<'a> {
    pub norm: &'a Norm,
    pub before: Before<'a>,
}

/// What came before a norm.
#[derive(Clone, Copy)]
pub enum Before<'a> {
    /// The embedding, which is the residual stream.
    Embedding,
    /// A block, whose output is added.
    Block,
    /// A block whose output has a norm of its own.
    PostNorm(&'a PostNorm),
}

impl<'a> Before<'a> {
    pub fn block(post: Option<&'a PostNorm>) -> Self {
        post.map_or(Self::Block, Self::PostNorm)
    }
}

impl BlockNorm<'_> {
    /// `hidden = norm(residual += block_out)`, of the first `n` rows: what a linear layer reads next. It may be left to that
    /// layer to compute it.
    pub fn input<'w>(
        &'w self,
        device: &Device,
        (hidden, residual): (&'w mut Tensor, &'w mut Tensor),
        block_out: &'w Tensor,
        n: usize,
    ) -> Input<'w> {
        let (mut out, mut residual) = (hidden.first_rows_mut(n), residual.first_rows_mut(n));
        let (x, weight, eps) = (block_out.first_rows(n), &self.norm.weight, self.norm.eps);
        match self.before {
            Before::Block => return Input::Normed(AddNorm { out, residual, x, weight, eps }),
            Before::Embedding => {
                rms_norm(device, out.reborrow(), residual.as_view(), weight, eps);
            }
            Before::PostNorm(&PostNorm { weight: ref post_weight, scale }) => {
                let norm = SandwichNorm { post_weight, scale, weight, eps };
                sandwich_norm(device, out.reborrow(), residual.reborrow(), x, norm);
            }
        }
        Input::Rows(out.into_view())
    }

    /// Computes `ws.hidden` of the first `n` rows.
    pub fn apply(&self, device: &Device, ws: &mut Workspace, n: usize) {
        let Workspace { hidden, residual, block_out, .. } = ws;
        self.input(device, (hidden, residual), block_out, n).make(device);
    }
}
