//! Reads the keys that all Llama-style architectures share, with the checks that keep later arithmetic safe.

use anyhow::{Context, bail, ensure};
use quire_kernels::RopeStyle;

use super::spec::{AttentionDims, DecoderSpec, LayerSpec, PlainDecoder};
use crate::weights::gguf::GgufFile;

/// Largest value of any one dimension: keeps products far from overflow.
const MAX_DIMENSION: u32 = 1 << 24;

/// Most layers of a model.
const MAX_LAYERS: usize = 4096;

/// A file and its architecture's key prefix.
pub(super) struct Keys<'a> {
    pub(super) file: &'a GgufFile,
    architecture: &'static str,
}

impl<'a> Keys<'a> {
    pub(super) fn new(file: &'a GgufFile, architecture: &'static str) -> Self {
        Self { file, architecture }
    }

    pub(super) fn architecture(&self) -> &'static str {
        self.architecture
    }

    pub(super) fn has_tensor(&self, name: &str) -> bool {
        self.file.tensor(name).is_some()
    }

    /// The spec without architecture-specific switches: every layer alike, no window.
    pub(super) fn llama_like(&self, style: RopeStyle) -> anyhow::Result<DecoderSpec> {
        let hidden_size = self.dimension("embedding_length")?;
        let num_heads = self.dimension("attention.head_count")?;
        let (key_length, value_length) = ("attention.key_length", "attention.value_length");
        let head_dim = self.head_dim(key_length, value_length, hidden_size / num_heads)?;
        self.with_head_dim(style, head_dim)
    }

    /// As `llama_like`, with heads of so many channels.
    pub(super) fn with_head_dim(
        &self,
        style: RopeStyle,
        head_dim: usize,
    ) -> anyhow::Result<DecoderSpec> {
        let hidden_size = self.dimension("embedding_length")?;
        let num_heads = self.dimension("attention.head_count")?;
        let embedding = self.file.tensor("token_embd.weight");
        let embedding = embedding.context("the file has no tensor \"token_embd.weight\"")?;
        let vocab_size = *embedding.dims.get(1).context("\"token_embd.weight\" is not a matrix")?;
        ensure!(
            vocab_size <= u64::from(MAX_DIMENSION),
            "a vocabulary of {vocab_size} is too large"
        );
        let num_layers = self.dimension("block_count")?;
        ensure!(
            num_layers <= MAX_LAYERS,
            "{} is {num_layers}, above the limit of {MAX_LAYERS}",
            self.key("block_count")
        );
        let context_length = self.dimension("context_length")? as u32;
        let plain = DecoderSpec::plain(PlainDecoder {
            architecture: self.architecture,
            hidden_size,
            vocab_size: vocab_size as usize,
            context_length,
            head_dim,
            layers: self.layers(num_layers, num_heads, head_dim)?,
            rope: self.rope(head_dim, context_length, style)?,
            norm_eps: self.norm_eps()?,
            tied_embeddings: !self.has_tensor("output.weight"),
        });
        Ok(plain.with_biases(|name| self.has_tensor(name)))
    }

    /// `attention.sliding_window`; 0 counts as absent.
    pub(super) fn window(&self) -> anyhow::Result<Option<u32>> {
        Ok(self.optional_dimension("attention.sliding_window")?.map(|window| window as u32))
    }

    /// Which layers have the window: a list in the file, or all but the last of each `period` layers.
    pub(super) fn layers_with_window(
        &self,
        num_layers: usize,
        default_period: usize,
    ) -> anyhow::Result<Vec<bool>> {
        let suffix = "attention.sliding_window_pattern";
        let key = self.key(suffix);
        if self.file.metadata().is_array(&key) {
            let layers = self.file.metadata().bool_or_bools(&key, num_layers)?;
            return Ok(layers.unwrap_or_default());
        }
        let period = self.optional_dimension(suffix)?.unwrap_or(default_period);
        Ok((1..=num_layers).map(|layer| !layer.is_multiple_of(period)).collect())
    }

    /// Channels of a head, which keys and values must have alike; in 1..=1024.
    pub(super) fn head_dim(
        &self,
        key_length: &str,
        value_length: &str,
        default: usize,
    ) -> anyhow::Result<usize> {
        let head_dim = self.optional_dimension(key_length)?.unwrap_or(default);
        let value_dim = self.optional_dimension(value_length)?.unwrap_or(head_dim);
        ensure!(
            value_dim == head_dim,
            "heads of {head_dim} key and {value_dim} value channels are not supported"
        );
        ensure!((1..=1024).contains(&head_dim), "a head of {head_dim} channels is not supported");
        Ok(head_dim)
    }

    fn layers(
        &self,
        num_layers: usize,
        num_heads: usize,
        head_dim: usize,
    ) -> anyhow::Result<Vec<LayerSpec>> {
        let key = self.key("attention.head_count_kv");
        let per_layer = self.file.metadata().u32_or_u32s(&key, num_layers)?;
        let per_layer = per_layer.unwrap_or_else(|| vec![0; num_layers]);
        let sizes = self.intermediate_sizes(num_layers)?;
        let layer = |(num_kv_heads, size): (u32, usize)| {
            // 0 counts as absent.
            let num_kv_heads = if num_kv_heads == 0 { num_heads } else { num_kv_heads as usize };
            ensure!(
                num_heads.is_multiple_of(num_kv_heads),
                "{num_heads} heads are not a multiple of {num_kv_heads} KV heads"
            );
            let attention = AttentionDims { num_heads, num_kv_heads, head_dim };
            Ok(LayerSpec::plain(attention, size))
        };
        per_layer.into_iter().zip(sizes).map(layer).collect()
    }

    /// Channels of each layer's MLP: one number for all, or a list. Files of models with experts only may leave it out.
    fn intermediate_sizes(&self, num_layers: usize) -> anyhow::Result<Vec<usize>> {
        let has_experts = self.optional_dimension("expert_count")?.is_some();
        let key = self.key("feed_forward_length");
        let sizes = self.file.metadata().u32_or_u32s(&key, num_layers)?;
        let sizes = match sizes {
            Some(sizes) => sizes,
            None if has_experts => vec![0; num_layers],
            None => bail!("the file has no key \"{key}\""),
        };
        let limits = u32::from(!has_experts)..=MAX_DIMENSION;
        let outside = sizes.iter().find(|size| !limits.contains(size));
        ensure!(outside.is_none(), "{key} is {}, not in {limits:?}", outside.copied().unwrap_or(0));
        Ok(sizes.into_iter().map(|size| size as usize).collect())
    }

    fn norm_eps(&self) -> anyhow::Result<f32> {
        let key = self.key("attention.layer_norm_rms_epsilon");
        let eps = self.file.metadata().f32(&key)?;
        let eps = eps.with_context(|| format!("the file has no key \"{key}\""))?;
        ensure!(eps.is_finite() && eps >= 0.0, "{key} is {eps}");
        Ok(eps)
    }

    pub(super) fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture)
    }

    /// A number that, where it is there, is finite.
    pub(super) fn number(&self, suffix: &str) -> anyhow::Result<Option<f32>> {
        let key = self.key(suffix);
        let value = self.file.metadata().f32(&key)?;
        ensure!(value.is_none_or(f32::is_finite), "{key} is {}", value.unwrap_or_default());
        Ok(value)
    }

    /// A number that, where it is there, is finite and above 0.
    pub(super) fn positive(&self, suffix: &str) -> anyhow::Result<Option<f32>> {
        let value = self.number(suffix)?;
        ensure!(
            value.is_none_or(|value| value > 0.0),
            "{} is {}",
            self.key(suffix),
            value.unwrap_or_default()
        );
        Ok(value)
    }

    /// A count that must be there and lie in 1..=MAX_DIMENSION.
    pub(super) fn dimension(&self, suffix: &str) -> anyhow::Result<usize> {
        let value = self.optional_dimension(suffix)?;
        value.with_context(|| format!("the file has no key \"{}\"", self.key(suffix)))
    }

    /// As `dimension`; 0 counts as absent.
    pub(super) fn optional_dimension(&self, suffix: &str) -> anyhow::Result<Option<usize>> {
        let key = self.key(suffix);
        let Some(value) = self.file.metadata().u32(&key)? else { return Ok(None) };
        ensure!(value <= MAX_DIMENSION, "{key} is {value}, above the limit of {MAX_DIMENSION}");
        Ok((value > 0).then_some(value as usize))
    }
}
