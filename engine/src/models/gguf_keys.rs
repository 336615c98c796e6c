//! Reads the keys that all Llama-style architectures share, with the checks that keep later arithmetic safe.

use anyhow::{Context, bail, ensure};
use quire_kernels::RopeStyle;

use super::spec::{AttentionDims, DecoderSpec, RopeSpec};
use crate::weights::gguf::GgufFile;

/// Largest value of any one dimension: keeps products far from overflow.
const MAX_DIMENSION: u32 = 1 << 24;

/// A file and its architecture's key prefix.
pub(super) struct Keys<'a> {
    file: &'a GgufFile,
    architecture: &'static str,
}

impl<'a> Keys<'a> {
    pub(super) fn new(file: &'a GgufFile, architecture: &'static str) -> Self {
        Self { file, architecture }
    }

    pub(super) fn has_tensor(&self, name: &str) -> bool {
        self.file.tensor(name).is_some()
    }

    /// The spec without architecture-specific switches.
    pub(super) fn llama_like(&self, style: RopeStyle) -> anyhow::Result<DecoderSpec> {
        let hidden_size = self.dimension("embedding_length")?;
        let num_heads = self.dimension("attention.head_count")?;
        let attention = self.attention(hidden_size, num_heads)?;
        let embedding = self.file.tensor("token_embd.weight");
        let embedding = embedding.context("the file has no tensor \"token_embd.weight\"")?;
        let vocab_size = *embedding.dims.get(1).context("\"token_embd.weight\" is not a matrix")?;
        ensure!(
            vocab_size <= u64::from(MAX_DIMENSION),
            "a vocabulary of {vocab_size} is too large"
        );
        self.refuse_experts()?;
        Ok(DecoderSpec {
            architecture: self.architecture,
            num_layers: self.dimension("block_count")?,
            hidden_size,
            intermediate_size: self.dimension("feed_forward_length")?,
            vocab_size: vocab_size as usize,
            context_length: self.dimension("context_length")? as u32,
            attention,
            norm_eps: self.norm_eps()?,
            rope: self.rope(attention.head_dim, style)?,
            qkv_bias: false,
            qk_norm: false,
            tied_embeddings: !self.has_tensor("output.weight"),
        })
    }

    fn attention(&self, hidden_size: usize, num_heads: usize) -> anyhow::Result<AttentionDims> {
        let num_kv_heads = self.optional_dimension("attention.head_count_kv")?.unwrap_or(num_heads);
        ensure!(
            num_heads.is_multiple_of(num_kv_heads),
            "{num_heads} heads are not a multiple of {num_kv_heads} KV heads"
        );
        let head_dim = match self.optional_dimension("attention.key_length")? {
            Some(head_dim) => head_dim,
            None => hidden_size / num_heads,
        };
        let value_dim = self.optional_dimension("attention.value_length")?.unwrap_or(head_dim);
        ensure!(
            value_dim == head_dim,
            "heads of {head_dim} key and {value_dim} value channels are not supported"
        );
        ensure!((1..=1024).contains(&head_dim), "a head of {head_dim} channels is not supported");
        Ok(AttentionDims { num_heads, num_kv_heads, head_dim })
    }

    fn rope(&self, head_dim: usize, style: RopeStyle) -> anyhow::Result<RopeSpec> {
        let rotary_dim = self.optional_dimension("rope.dimension_count")?.unwrap_or(head_dim);
        ensure!(
            rotary_dim.is_multiple_of(2) && rotary_dim <= head_dim,
            "{} is {rotary_dim}, heads have {head_dim} channels",
            self.key("rope.dimension_count")
        );
        let metadata = self.file.metadata();
        let theta = metadata.f32(&self.key("rope.freq_base"))?.unwrap_or(10_000.0);
        ensure!(theta.is_finite() && theta > 0.0, "{} is {theta}", self.key("rope.freq_base"));
        let scaling_key = self.key("rope.scaling.type");
        let linear_factor = match metadata.string(&scaling_key)? {
            None | Some("none") => 1.0,
            Some("linear") => metadata.f32(&self.key("rope.scaling.factor"))?.unwrap_or(1.0),
            Some(other) => bail!("{scaling_key} is \"{other}\", which is not supported yet"),
        };
        ensure!(
            linear_factor.is_finite() && linear_factor > 0.0,
            "rope.scaling.factor {linear_factor}"
        );
        let has_frequency_factors = self.has_tensor("rope_freqs.weight");
        Ok(RopeSpec { theta, rotary_dim, style, linear_factor, has_frequency_factors })
    }

    fn norm_eps(&self) -> anyhow::Result<f32> {
        let key = self.key("attention.layer_norm_rms_epsilon");
        let eps = self.file.metadata().f32(&key)?;
        let eps = eps.with_context(|| format!("the file has no key \"{key}\""))?;
        ensure!(eps.is_finite() && eps >= 0.0, "{key} is {eps}");
        Ok(eps)
    }

    fn refuse_experts(&self) -> anyhow::Result<()> {
        match self.optional_dimension("expert_count")? {
            Some(count) => bail!("mixture of experts ({count} experts) is not supported yet"),
            None => Ok(()),
        }
    }

    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture)
    }

    /// A count that must be there and lie in 1..=MAX_DIMENSION.
    fn dimension(&self, suffix: &str) -> anyhow::Result<usize> {
        let value = self.optional_dimension(suffix)?;
        value.with_context(|| format!("the file has no key \"{}\"", self.key(suffix)))
    }

    /// As `dimension`; 0 counts as absent.
    fn optional_dimension(&self, suffix: &str) -> anyhow::Result<Option<usize>> {
        let key = self.key(suffix);
        let Some(value) = self.file.metadata().u32(&key)? else { return Ok(None) };
        ensure!(value <= MAX_DIMENSION, "{key} is {value}, above the limit of {MAX_DIMENSION}");
        Ok((value > 0).then_some(value as usize))
    }
}
