//! Llama 2 and 3, Mistral, SmolLM2 and all that converters write as `llama`.

use quire_kernels::RopeStyle;

use super::config_keys::ConfigKeys;
use super::gguf_keys::Keys;
use super::spec::DecoderSpec;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    // Converters permute q and k, so that neighbouring channels form the pairs.
    Ok(keys.llama_like(RopeStyle::Interleaved)?.with_window(keys.window()?, |_| true))
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    keys.llama_like()
}
