//! Qwen3 (dense): each head of q and k is normalised before the rotation.

use quire_kernels::RopeStyle;

use super::config_keys::ConfigKeys;
use super::gguf_keys::Keys;
use super::spec::DecoderSpec;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    Ok(DecoderSpec { qk_norm: true, ..keys.llama_like(RopeStyle::Neox)? })
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    Ok(DecoderSpec { qk_norm: true, ..keys.llama_like()? })
}
