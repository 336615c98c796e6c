//! Gemma 2: norms around each block, soft caps, and a window on every other layer.

use quire_kernels::RopeStyle;

use super::gemma::{attention_scale, gemma_like};
use super::gguf_keys::Keys;
use super::spec::DecoderSpec;

const LAYERS_OF_27B: usize = 46;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    let spec = gemma_like(keys.llama_like(RopeStyle::Neox)?);
    let has_window = keys.layers_with_window(spec.num_layers(), 2)?;
    Ok(DecoderSpec {
        attention_scale: attention_scale(keys, &spec, LAYERS_OF_27B)?,
        qk_norm: false,
        attention_softcap: Some(keys.positive("attn_logit_softcapping")?.unwrap_or(50.0)),
        logits_softcap: Some(keys.positive("final_logit_softcapping")?.unwrap_or(30.0)),
        ..spec.with_window(keys.window()?, |layer| has_window[layer])
    })
}
