//! Gemma 3 (text): norms around each block and on heads; five layers with a window and a fast rotation, then one without.

use quire_kernels::RopeStyle;

use super::gemma::{attention_scale, gemma_like};
use super::gguf_keys::Keys;
use super::rope::{RopeScaling, RopeSpec};
use super::spec::DecoderSpec;

const LAYERS_OF_27B: usize = 62;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    let spec = gemma_like(keys.llama_like(RopeStyle::Neox)?);
    let has_window = keys.layers_with_window(spec.num_layers(), 6)?;
    let mut spec = DecoderSpec {
        attention_scale: attention_scale(keys, &spec, LAYERS_OF_27B)?,
        logits_softcap: keys.positive("final_logit_softcapping")?,
        ..spec.with_window(keys.window()?, |layer| has_window[layer])
    };
    let theta = keys.positive("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let near = RopeSpec { theta, scaling: RopeScaling::None, ..spec.ropes[0].clone() };
    spec.ropes.push(near);
    for (layer, _) in spec.layers.iter_mut().zip(has_window).filter(|(_, windowed)| *windowed) {
        layer.rope = Some(1);
    }
    Ok(spec)
}
