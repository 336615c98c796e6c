//! `EncoderSpec`: everything the generic encoder needs to know of an architecture, as data.

use quire_kernels::Activation;

use super::rank_head::RankHeadSpec;
use super::rope::RopeSpec;
use super::spec::AttentionDims;

/// A BERT-style encoder (Devlin et al. 2018): every token sees the whole text.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderSpec {
    /// As GGUF calls it.
    pub architecture: &'static str,
    pub hidden_size: usize,
    pub vocab_size: usize,
    /// Tokens that a text may have.
    pub context_length: u32,
    /// What may differ from layer to layer.
    pub layers: Vec<EncoderLayerSpec>,
    /// The heads of all layers.
    pub attention: AttentionDims,
    /// The rotations that layers refer to.
    pub ropes: Vec<RopeSpec>,
    /// Positions as rows of a table that are added to the embeddings.
    pub positions: Option<PositionTable>,
    /// Kinds of tokens, each a row that is added to the embeddings; texts are of the first one. 0: none.
    pub num_token_types: usize,
    /// Channels of the feed-forward layer.
    pub intermediate_size: usize,
    pub activation: Activation,
    /// The feed-forward layer has a gate.
    pub is_gated: bool,
    pub norms: NormPlace,
    pub norm_eps: f32,
    pub norm_bias: bool,
    pub attention_bias: bool,
    pub ffn_bias: bool,
    /// Of a reranker.
    pub rank_head: Option<RankHeadSpec>,
}

/// One layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderLayerSpec {
    /// A token sees those at most `window / 2` positions away.
    pub window: Option<u32>,
    /// Index in `EncoderSpec::ropes`.
    pub rope: Option<usize>,
}

/// The table of learned positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionTable {
    /// Of the file's table.
    pub num_rows: usize,
    /// The row of the first token (RoBERTa keeps rows for padding before it).
    pub first_row: usize,
}

/// Where norms are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// Behind each block, of the block's output and what it was given (BERT).
    After,
    /// Before each block but the first layer's attention, and behind the last layer (ModernBERT).
    Before,
}

impl EncoderSpec {
    /// Where the rows begin that are added to the second text of a pair, behind those of the first; 0: there are no others.
    pub fn second_text_row(&self) -> u32 {
        match self.positions {
            Some(table) if self.rank_head.is_some() && self.num_token_types > 1 => {
                (table.num_rows - table.first_row) as u32
            }
            _ => 0,
        }
    }

    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Columns of what the feed-forward layer projects to at first.
    pub fn up_size(&self) -> usize {
        if self.is_gated { 2 * self.intermediate_size } else { self.intermediate_size }
    }
}
