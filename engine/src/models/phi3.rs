//! Phi-3 and Phi-4-mini: q, k, v in one tensor and gate, up in another, `LongRoPE`, partial rotation.

use quire_kernels::RopeStyle;

use super::config_keys::ConfigKeys;
use super::gguf_keys::Keys;
use super::spec::DecoderSpec;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    Ok(keys.llama_like(RopeStyle::Neox)?.with_window(keys.window()?, |_| true))
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    keys.llama_like()
}
