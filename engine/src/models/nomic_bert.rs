//! Nomic's BERT (Nussbaum et al. 2024): rotations in place of learned positions, SwiGLU, and few biases.

use anyhow::ensure;
use quire_kernels::{Activation, RopeStyle};

use super::config_keys::ConfigKeys;
use super::encoder_spec::EncoderSpec;
use super::gguf_keys::Keys;
use super::rope::{RopeScaling, RopeSpec};

/// Where configurations leave it out.
const THETA: f32 = 1000.0;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<EncoderSpec> {
    let spec = keys.encoder()?;
    let key = "moe_every_n_layers";
    let has_experts = keys.optional_dimension(key)?.is_some();
    ensure!(!has_experts, "{}: experts in an encoder are not supported", keys.key(key));
    let rope = keys.rope(spec.attention.head_dim, spec.context_length, RopeStyle::Neox)?;
    Ok(rotated(spec, rope))
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<EncoderSpec> {
    let (text, spec) = (keys.text(), keys.encoder()?);
    for key in ["prenorm", "use_rms_norm", "rotary_emb_interleaved"] {
        let is_on = text.bool(key)?.unwrap_or(false);
        ensure!(!is_on, "{} is true, which is not supported", text.name_of(key));
    }
    if text.section("rope_parameters")?.is_some() {
        // As transformers has written it since its version 5.
        let rope = keys.rope(spec.attention.head_dim, "full_attention")?;
        return Ok(rotated(spec, rope));
    }
    let fraction = text.positive("rotary_emb_fraction")?.unwrap_or(1.0);
    let head_dim = spec.attention.head_dim;
    let rotary_dim = (head_dim as f32 * fraction) as usize;
    ensure!(
        rotary_dim.is_multiple_of(2) && (2..=head_dim).contains(&rotary_dim),
        "{rotary_dim} of a head's {head_dim} channels cannot be rotated"
    );
    let rope = RopeSpec {
        theta: text.positive("rotary_emb_base")?.unwrap_or(THETA),
        rotary_dim,
        style: RopeStyle::Neox,
        scaling: RopeScaling::None,
        attention_factor: 1.0,
    };
    // Beyond, the rotations would have to change with each text's length.
    let trained = text.optional_dimension("max_trained_positions")?;
    let context_length = spec.context_length.min(trained.unwrap_or(usize::MAX) as u32);
    Ok(EncoderSpec { context_length, ..rotated(spec, rope) })
}

fn rotated(mut spec: EncoderSpec, rope: RopeSpec) -> EncoderSpec {
    spec.layers.iter_mut().for_each(|layer| layer.rope = Some(0));
    EncoderSpec { ropes: vec![rope], is_gated: true, activation: Activation::Silu, ..spec }
}
