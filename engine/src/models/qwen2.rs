//! Qwen2 and Qwen2.5: biases on q, k and v.

use quire_kernels::RopeStyle;

use super::gguf_keys::Keys;
use super::spec::DecoderSpec;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    keys.llama_like(RopeStyle::Neox)
}
