//! Qwen2 and Qwen2.5: biases on q, k and v.

use quire_kernels::RopeStyle;

use super::config_keys::ConfigKeys;
use super::gguf_keys::Keys;
use super::spec::DecoderSpec;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    keys.llama_like(RopeStyle::Neox)
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    Ok(DecoderSpec { qkv_bias: true, ..keys.llama_like()? })
}
