//! Tokens to vectors and back: the embedding table and the head of a model, or a rank's share of them.

use std::ops::Range;

use quire_kernels::{Device, Indices, LinearWeight, View, ViewMut, embedding, linear};

use super::spec::DecoderSpec;
use crate::weights::WeightLoader;

/// The tokens that a rank has; without ranks, all.
pub struct Vocabulary {
    share: Range<usize>,
    embedding: LinearWeight,
    /// Of embeddings.
    scale: f32,
    /// `None`: the embedding table.
    lm_head: Option<LinearWeight>,
}

impl Vocabulary {
    /// The share of the loader's rank.
    pub fn load(spec: &DecoderSpec, loader: &WeightLoader) -> anyhow::Result<Self> {
        let load = |name| loader.vocabulary(name, spec.vocab_size, spec.hidden_size);
        Ok(Self {
            share: loader.shard().vocabulary(spec.vocab_size),
            embedding: load("token_embd.weight")?,
            scale: spec.embedding_scale,
            lm_head: (!spec.tied_embeddings).then(|| load("output.weight")).transpose()?,
        })
    }

    pub fn share(&self) -> Range<usize> {
        self.share.clone()
    }

    /// The embeddings of `ids`, those of other ranks' tokens 0: `out` is `[ids.len(), hidden_size]` F32.
    pub fn embed(&self, device: &Device, out: ViewMut, ids: Indices) {
        embedding(device, out, ids, (&self.embedding, self.share.start), self.scale);
    }

    /// Logits of this share: `x` is `[n, hidden_size]` after a norm, `out` `[n, share]`.
    pub fn project(&self, device: &Device, out: ViewMut, x: View) {
        linear(device, out, x, self.lm_head.as_ref().unwrap_or(&self.embedding), None);
    }

    /// The weight that makes logits.
    pub fn head_mut(&mut self) -> &mut LinearWeight {
        self.lm_head.as_mut().unwrap_or(&mut self.embedding)
    }
}
