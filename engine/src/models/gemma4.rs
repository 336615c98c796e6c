//! Gemma 4 (text): as Gemma 3, with wider heads in the layers without a window, normalised values, values that
//! may share the weight of keys, and a scale for each layer's output.

use anyhow::ensure;
use quire_kernels::{RopeStyle, RouterScores};

use super::gemma::gemma_like;
use super::gguf_keys::Keys;
use super::gguf_moe::RouterDefaults;
use super::rope::{RopeScaling, RopeSpec};
use super::spec::{DecoderSpec, FfnSpec, MoeSpec};

const ROUTER: RouterDefaults = RouterDefaults { scores: RouterScores::Softmax, normalises: true };

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    for suffix in ["embedding_length_per_layer_input", "attention.shared_kv_layers"] {
        let value = keys.optional_dimension(suffix)?;
        ensure!(value.is_none(), "{} above 0 is not supported yet", keys.key(suffix));
    }
    let spec = gemma_like(keys.llama_like(RopeStyle::Neox)?);
    let has_window = keys.layers_with_window(spec.num_layers(), 6)?;
    let mut spec = DecoderSpec {
        value_norm: true,
        layer_scales: true,
        attention_scale: 1.0,
        logits_softcap: keys.positive("final_logit_softcapping")?,
        ..spec.with_window(keys.window()?, |layer| has_window[layer])
    };
    let (key_length, value_length) = ("attention.key_length_swa", "attention.value_length_swa");
    let head_dim = keys.head_dim(key_length, value_length, spec.largest(|dims| dims.head_dim))?;
    let rotary_dim = keys.rotary_dim("rope.dimension_count_swa", head_dim)?;
    let theta = keys.positive("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let scaling = RopeScaling::None;
    spec.ropes.push(RopeSpec { theta, rotary_dim, scaling, ..spec.ropes[0].clone() });
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        if has_window[index] {
            layer.attention.head_dim = head_dim;
            layer.rope = Some(1);
        }
        layer.shares_key_weight = !keys.has_tensor(&format!("blk.{index}.attn_v.weight"));
    }
    match keys.optional_dimension("expert_count")? {
        None => Ok(spec),
        Some(_) => Ok(beside_mlp(keys.with_experts(spec.clone(), ROUTER)?, &spec)),
    }
}

/// The experts stand beside the MLP that `dense` has in their place.
fn beside_mlp(mut spec: DecoderSpec, dense: &DecoderSpec) -> DecoderSpec {
    for (layer, dense) in spec.layers.iter_mut().zip(&dense.layers) {
        if let (FfnSpec::Experts, FfnSpec::Dense(size)) = (layer.ffn, dense.ffn) {
            layer.ffn = FfnSpec::Parallel(size);
        }
    }
    let moe = spec.moe.map(|moe| MoeSpec { expert_scales: true, ..moe });
    DecoderSpec { moe, ..spec }
}
