//! ModernBERT (Warner et al. 2024): norms before blocks, GeGLU, and rotations; all but each third layer see a window.

use anyhow::ensure;
use quire_kernels::RopeStyle;

use super::config_keys::ConfigKeys;
use super::encoder_spec::{EncoderSpec, NormPlace};
use super::gguf_keys::Keys;
use super::rope::{RopeScaling, RopeSpec};

/// Of layers without and with a window, where files leave them out.
const THETAS: [f32; 2] = [160_000.0, 10_000.0];
/// One layer in so many sees everything, the first one to begin with.
const PERIOD: usize = 3;
const WINDOW: usize = 128;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<EncoderSpec> {
    let spec = keys.encoder()?;
    let thetas = [
        keys.positive("rope.freq_base")?.unwrap_or(THETAS[0]),
        keys.positive("rope.freq_base_swa")?.unwrap_or(THETAS[1]),
    ];
    let period = keys.optional_dimension("attention.sliding_window_pattern")?.unwrap_or(PERIOD);
    let window = keys.window()?.unwrap_or(WINDOW as u32);
    let has_window = (0..spec.num_layers()).map(|layer| !layer.is_multiple_of(period)).collect();
    let ropes = thetas.map(|theta| rope(theta, &spec)).into();
    Ok(with_windows(EncoderSpec { ropes, ..spec }, window, has_window))
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<EncoderSpec> {
    let (text, spec) = (keys.text(), keys.encoder()?);
    let head_dim = spec.attention.head_dim;
    let ropes = if text.has("rope_parameters") {
        vec![keys.rope(head_dim, "full_attention")?, keys.rope(head_dim, "sliding_attention")?]
    } else {
        let theta = |key, default| text.positive(key).map(|theta| theta.unwrap_or(default));
        let thetas =
            [theta("global_rope_theta", THETAS[0])?, theta("local_rope_theta", THETAS[1])?];
        thetas.map(|theta| rope(theta, &spec)).into()
    };
    let has_window = if let Some(kinds) = text.strings("layer_types")? {
        ensure!(
            kinds.len() == spec.num_layers(),
            "{} has {} entries for {} layers",
            text.name_of("layer_types"),
            kinds.len(),
            spec.num_layers()
        );
        kinds.iter().map(|&kind| kind == "sliding_attention").collect()
    } else {
        let period = text.optional_dimension("global_attn_every_n_layers")?.unwrap_or(PERIOD);
        (0..spec.num_layers()).map(|layer| !layer.is_multiple_of(period)).collect()
    };
    let window = text.optional_dimension("local_attention")?.unwrap_or(WINDOW);
    Ok(with_windows(EncoderSpec { ropes, ..spec }, window as u32, has_window))
}

fn with_windows(spec: EncoderSpec, window: u32, has_window: Vec<bool>) -> EncoderSpec {
    let mut spec = EncoderSpec { is_gated: true, norms: NormPlace::Before, ..spec };
    for (layer, has_window) in spec.layers.iter_mut().zip(has_window) {
        layer.window = has_window.then_some(window);
        layer.rope = Some(usize::from(has_window));
    }
    spec
}

fn rope(theta: f32, spec: &EncoderSpec) -> RopeSpec {
    RopeSpec {
        theta,
        rotary_dim: spec.attention.head_dim,
        style: RopeStyle::Neox,
        scaling: RopeScaling::None,
        attention_factor: 1.0,
    }
}
