//! Ministral 3: `YaRN`, and queries that grow with their position.

use anyhow::Context;
use quire_kernels::RopeStyle;

use super::config_keys::ConfigKeys;
use super::gguf_keys::Keys;
use super::spec::{DecoderSpec, QueryScale};

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    // Converters permute q and k, so that neighbouring channels form the pairs.
    let spec = keys.llama_like(RopeStyle::Interleaved)?.with_window(keys.window()?, |_| true);
    Ok(DecoderSpec { query_scale: query_scale(keys)?, ..spec })
}

pub(super) fn query_scale(keys: &Keys) -> anyhow::Result<Option<QueryScale>> {
    Ok(match keys.number("attention.temperature_scale")? {
        None | Some(0.0) => None,
        Some(beta) => {
            let length = keys.original_context_length()?;
            let original_context_length = length.context(
                "attention.temperature_scale needs rope.scaling.original_context_length",
            )?;
            let (offset, without_rope) = (0, false);
            Some(QueryScale { beta, original_context_length, offset, without_rope })
        }
    })
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    Ok(DecoderSpec { query_scale: keys.query_scale()?, ..keys.llama_like()? })
}
