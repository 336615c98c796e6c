//! `DecoderSpec`: everything the generic decoder needs to know of an architecture, as data.

use quire_kernels::RopeStyle;

/// A Llama-style decoder: norm, attention, norm, gated MLP, in `num_layers` layers.
/// A field that only one model would use does not belong here: such a model gets a layer of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// `general.architecture`.
    pub architecture: &'static str,
    pub num_layers: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    /// Width of the logits.
    pub vocab_size: usize,
    /// Positions the model was trained for.
    pub context_length: u32,
    pub attention: AttentionDims,
    pub norm_eps: f32,
    pub rope: RopeSpec,
    /// q, k and v have biases.
    pub qkv_bias: bool,
    /// RMS norm over each head of q and k before the rotation.
    pub qk_norm: bool,
    /// Logits come from the embedding table.
    pub tied_embeddings: bool,
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

/// Rotary position embedding (Su et al. 2021) and its extensions.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    pub theta: f32,
    /// Channels of each head that rotate; the rest pass through.
    pub rotary_dim: usize,
    pub style: RopeStyle,
    /// Positions are divided by this (`rope.scaling.type = linear`).
    pub linear_factor: f32,
    /// Per-frequency divisors of the file (`rope_freqs.weight`: Llama 3's scaling).
    pub has_frequency_factors: bool,
}

impl RopeSpec {
    /// `theta^(-2i/rotary_dim)`, divided by the factors; `frequency_factors` has rotary_dim/2 entries or none.
    pub fn inverse_frequencies(&self, frequency_factors: &[f32]) -> Vec<f32> {
        (0..self.rotary_dim / 2)
            .map(|i| {
                let exponent = -2.0 * i as f64 / self.rotary_dim as f64;
                let divisor = frequency_factors.get(i).copied().unwrap_or(1.0) * self.linear_factor;
                (f64::from(self.theta).powf(exponent) / f64::from(divisor)) as f32
            })
            .collect()
    }
}
