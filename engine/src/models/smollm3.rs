//! SmolLM3: every fourth layer does without positions.

use quire_kernels::RopeStyle;

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
