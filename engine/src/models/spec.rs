//! `DecoderSpec`: everything the generic decoder needs to know of an architecture, as data.

use quire_kernels::{Activation, GatedDeltaSpec, IndexSpec, RouterSpec, StateShape};

use super::rope::RopeSpec;

/// A Llama-style decoder: norm, attention, norm, gated MLP, layer after layer.
/// A field that only one model would use does not belong here: such a model gets a layer of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// `general.architecture`.
    pub architecture: &'static str,
    pub hidden_size: usize,
    /// Width of the logits.
    pub vocab_size: usize,
    /// Positions the model was trained for.
    pub context_length: u32,
    /// What may differ from layer to layer.
    pub layers: Vec<LayerSpec>,
    /// The rotations that layers refer to.
    pub ropes: Vec<RopeSpec>,
    /// Keys and values of all layers come from a latent vector.
    pub latent: Option<LatentSpec>,
    /// The indexers of all layers that have one; needs `latent` with a query rank.
    pub indexer: Option<IndexerSpec>,
    /// The experts of all layers that have some.
    pub moe: Option<MoeSpec>,
    /// The heads of all layers with Gated DeltaNet.
    pub gated_delta: Option<RecurrentSpec>,
    pub norm_eps: f32,
    /// q, k and v have biases.
    pub qkv_bias: bool,
    /// So has the projection of the attention's output.
    pub attention_output_bias: bool,
    /// RMS norm over each head of q and k before the rotation.
    pub qk_norm: bool,
    /// RMS norm over each head of q and k without weights, in layers that encode positions (Llama 4).
    pub plain_qk_norm: bool,
    /// The weight of q has beside each head a gate, whose sigmoid multiplies the attention's output.
    pub attention_gate: bool,
    /// Files have the weights of norms minus 1, but for those of Gated DeltaNet.
    pub zero_centred_norms: bool,
    /// So for v, without weights; needs `qk_norm`.
    pub value_norm: bool,
    /// Each head has one more score in its softmax, of nothing.
    pub sinks: bool,
    /// The output of attention and of the MLP is normalised before it is added to the residual stream.
    pub post_norms: bool,
    /// A number of the file multiplies the output of each layer; needs `post_norms`.
    pub layer_scales: bool,
    pub activation: Activation,
    /// Multiplies the embeddings.
    pub embedding_scale: f32,
    /// Multiplies q·k.
    pub attention_scale: f32,
    /// Bounds q·k, above 0.
    pub attention_softcap: Option<f32>,
    /// Bounds the logits, above 0.
    pub logits_softcap: Option<f32>,
    pub query_scale: Option<QueryScale>,
    /// Each token has a vector of so many channels for each layer; needs `post_norms`.
    pub per_layer_inputs: Option<usize>,
    /// Logits come from the embedding table.
    pub tied_embeddings: bool,
}

/// One layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSpec {
    pub attention: AttentionDims,
    /// A query sees itself and the `window − 1` positions before it.
    pub window: Option<u32>,
    /// A query sees itself and those before it in its chunk: positions over `chunk` are the same. Not with a window.
    pub chunk: Option<u32>,
    /// Index in `DecoderSpec::ropes`; `None`: positions are not encoded (NoPE).
    pub rope: Option<usize>,
    /// Values are projected by the weight of the keys.
    pub shares_key_weight: bool,
    /// Keys and values are those of this layer before it, which has as many of them, as wide, and the same window.
    pub kv_of: Option<usize>,
    pub reach: Reach,
    pub ffn: FfnSpec,
    /// In place of attention: Gated DeltaNet, with the heads of `DecoderSpec::gated_delta`.
    pub is_recurrent: bool,
}

/// Which of the positions that window and chunk leave a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    All,
    /// Those that the layer's indexer chooses.
    Chosen,
    /// Those that the last indexer before the layer chose.
    AsBefore,
}

/// The indexers of a model (DeepSeek-V3.2, arXiv 2512.02556).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexerSpec {
    pub heads: IndexSpec,
    /// Index in `DecoderSpec::ropes`.
    pub rope: usize,
}

/// Gated DeltaNet in all layers that have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecurrentSpec {
    pub heads: GatedDeltaSpec,
    /// Tokens that the short convolution sees.
    pub taps: usize,
    /// Files have the logarithm of the rates, without sign.
    pub has_log_rates: bool,
    pub rows: ProjectionRows,
}

/// How files have the rows of Gated DeltaNet's projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProjectionRows {
    /// q, k and v after one another; z, b and a in tensors of their own.
    Apart,
    /// As `Apart`, but b and a of each key head together in one tensor.
    GroupedGates,
    /// q, k, v and z of each key head together in one tensor, b and a in another.
    Grouped,
}

impl RecurrentSpec {
    /// Columns of q, k, v, z, b and a together.
    pub fn projected_size(&self) -> usize {
        let heads = &self.heads;
        heads.qkv_size() + heads.value_size() + 2 * heads.num_value_heads
    }

    pub fn state_shape(&self) -> StateShape {
        let GatedDeltaSpec { num_value_heads, key_dim, value_dim, .. } = self.heads;
        let channels = self.heads.qkv_size();
        StateShape { taps: self.taps, channels, num_value_heads, key_dim, value_dim }
    }
}

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values of all heads are projections of one latent
/// vector a position, and so only that is kept, beside a rotated key that all heads share. In `LayerSpec::attention` this
/// is one KV head of `kept_dim` channels: the rotated ones, then the latent ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatentSpec {
    /// Channels of the vector that queries are projections of; none: they come from the residual stream.
    pub query_rank: Option<usize>,
    /// Channels of the latent vector.
    pub rank: usize,
    /// Channels of a head that rotate.
    pub rope_dim: usize,
    /// Channels of a head's key that do not.
    pub nope_dim: usize,
    /// Channels of a head's value.
    pub value_dim: usize,
    /// Of the norms of both vectors.
    pub norm_eps: f32,
}

impl LatentSpec {
    /// Channels of a head's query and key.
    pub fn key_dim(&self) -> usize {
        self.nope_dim + self.rope_dim
    }

    /// Channels that are kept of a position.
    pub fn kept_dim(&self) -> usize {
        self.rope_dim + self.rank
    }
}

/// What follows the attention in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FfnSpec {
    /// A gated MLP of so many channels.
    Dense(usize),
    /// The experts of `DecoderSpec::moe`.
    Experts,
    /// A gated MLP of so many channels beside the experts, both with norms of their own (Gemma 4).
    Parallel(usize),
}

/// A mixture of experts: gated MLPs, of which each row uses a few.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MoeSpec {
    pub router: RouterSpec,
    /// Channels of an expert.
    pub intermediate_size: usize,
    /// The same of all ranks together.
    pub num_channels: usize,
    /// Channels that lie in one block of the file, which ranks do not divide.
    pub block_channels: usize,
    pub shared: Option<SharedExpertSpec>,
    /// A bias on the router's logits.
    pub router_bias: bool,
    /// A bias on the scores, for the choice alone.
    pub choice_bias: bool,
    /// A number an expert multiplies its weight.
    pub expert_scales: bool,
    /// A row's weights multiply what its experts read, not what they write.
    pub weighs_input: bool,
    /// Biases on gate, up and down of each expert.
    pub expert_biases: bool,
    /// How files have gate and up of all experts in one tensor, and down.
    pub layout: ExpertLayout,
}

/// How the tensors of all experts lie in files of an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertLayout {
    /// A row for each output, all of the gate first.
    Rows,
    /// Transposed: a column for each output.
    Columns,
    /// Transposed, and columns of gate and up take turns.
    InterleavedColumns,
}

/// An expert of every row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedExpertSpec {
    pub intermediate_size: usize,
    /// A gate of its own multiplies its output.
    pub is_gated: bool,
}

/// Heads of the attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionDims {
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
}

impl AttentionDims {
    /// Columns of q.
    pub fn q_size(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Columns of k, and of v.
    pub fn kv_size(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Columns of q, k and v together.
    pub fn qkv_size(&self) -> usize {
        self.q_size() + 2 * self.kv_size()
    }
}

/// Queries grow with their position p: `q · (1 + beta · ln(1 + ⌊(p + offset) / original_context_length⌋))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueryScale {
    pub beta: f32,
    pub original_context_length: u32,
    pub offset: u32,
    /// Only in layers that do not encode positions (Llama 4).
    pub without_rope: bool,
}

impl QueryScale {
    pub fn factor(&self, position: usize) -> f32 {
        let length = self.original_context_length as usize;
        let contexts = (position + self.offset as usize) / length;
        (1.0 + f64::from(self.beta) * (contexts as f64).ln_1p()) as f32
    }
}

/// What the files of every decoder say.
pub(super) struct PlainDecoder {
    pub(super) architecture: &'static str,
    pub(super) hidden_size: usize,
    pub(super) vocab_size: usize,
    pub(super) context_length: u32,
    /// Channels of a head.
    pub(super) head_dim: usize,
    pub(super) layers: Vec<LayerSpec>,
    pub(super) rope: RopeSpec,
    pub(super) norm_eps: f32,
    pub(super) tied_embeddings: bool,
}

impl LayerSpec {
    /// Attention to all positions, and an MLP of so many channels.
    pub(super) fn plain(attention: AttentionDims, intermediate_size: usize) -> Self {
        Self {
            attention,
            window: None,
            chunk: None,
            rope: Some(0),
            shares_key_weight: false,
            kv_of: None,
            reach: Reach::All,
            ffn: FfnSpec::Dense(intermediate_size),
            is_recurrent: false,
        }
    }
}

impl DecoderSpec {
    /// A Llama: none of the switches is on.
    pub(super) fn plain(plain: PlainDecoder) -> Self {
        Self {
            architecture: plain.architecture,
            hidden_size: plain.hidden_size,
            vocab_size: plain.vocab_size,
            context_length: plain.context_length,
            layers: plain.layers,
            ropes: vec![plain.rope],
            latent: None,
            indexer: None,
            moe: None,
            gated_delta: None,
            norm_eps: plain.norm_eps,
            qkv_bias: false,
            attention_output_bias: false,
            qk_norm: false,
            plain_qk_norm: false,
            attention_gate: false,
            zero_centred_norms: false,
            value_norm: false,
            sinks: false,
            post_norms: false,
            layer_scales: false,
            activation: Activation::Silu,
            embedding_scale: 1.0,
            attention_scale: 1.0 / (plain.head_dim as f32).sqrt(),
            attention_softcap: None,
            logits_softcap: None,
            query_scale: None,
            per_layer_inputs: None,
            tied_embeddings: plain.tied_embeddings,
        }
    }

    /// With the biases of attention that the first layer has.
    #[must_use]
    pub(super) fn with_biases(self, has_tensor: impl Fn(&str) -> bool) -> Self {
        Self {
            qkv_bias: has_tensor("blk.0.attn_q.bias") || has_tensor("blk.0.attn_qkv.bias"),
            attention_output_bias: has_tensor("blk.0.attn_output.bias"),
            ..self
        }
    }

    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// The largest of a size over all layers, for buffers that layers share.
    pub fn largest(&self, size: impl Fn(&AttentionDims) -> usize) -> usize {
        self.layers.iter().map(|layer| size(&layer.attention)).max().unwrap_or(0)
    }

    /// Channels of the widest MLP outside the experts.
    pub fn intermediate_size(&self) -> usize {
        let dense = self.layers.iter().map(|layer| match layer.ffn {
            FfnSpec::Dense(size) | FfnSpec::Parallel(size) => size,
            FfnSpec::Experts => 0,
        });
        let shared = self.moe.and_then(|moe| moe.shared).map(|shared| shared.intermediate_size);
        dense.chain(shared).max().unwrap_or(0)
    }

    /// With a window on the layers that `has_window` names.
    #[must_use]
    pub fn with_window(mut self, window: Option<u32>, has_window: impl Fn(usize) -> bool) -> Self {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            layer.window = window.filter(|_| has_window(index));
        }
        self
    }
}
