//! SmolLM3: every fourth layer does without positions.

use quire_kernels::RopeStyle;

use super::config_keys::ConfigKeys;
use super::gguf_keys::Keys;
use super::spec::DecoderSpec;

/// Files do not say it; all released models have it.
const NOPE_INTERVAL: usize = 4;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    // Converters permute q and k, so that neighbouring channels form the pairs.
    let mut spec = keys.llama_like(RopeStyle::Interleaved)?;
    for layer in spec.layers.iter_mut().skip(NOPE_INTERVAL - 1).step_by(NOPE_INTERVAL) {
        layer.rope = None;
    }
    Ok(spec)
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    let mut spec = keys.llama_like()?;
    let text = keys.text();
    let interval = text.optional_dimension("no_rope_layer_interval")?.unwrap_or(NOPE_INTERVAL);
    let said = text.counts("no_rope_layers")?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let has_rope = match &said {
            Some(layers) => layers.get(index).is_none_or(|&has_rope| has_rope != 0),
            None => !(index + 1).is_multiple_of(interval),
        };
        layer.rope = layer.rope.filter(|_| has_rope);
    }
    Ok(spec)
}
