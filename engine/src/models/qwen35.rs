//! Qwen3-Next and Qwen3.5 (3.6 is the same): three layers with Gated DeltaNet, then one with attention whose output has
//! a gate; dense or with experts.

use anyhow::ensure;
use quire_kernels::{GatedDeltaSpec, RopeStyle, RouterScores};

use super::config_keys::ConfigKeys;
use super::gguf_keys::Keys;
use super::gguf_moe::RouterDefaults;
use super::spec::{DecoderSpec, ExpertLayout, ProjectionRows, RecurrentSpec};

/// All released models normalise the weights, and files do not say it.
const ROUTER: RouterDefaults = RouterDefaults { scores: RouterScores::Softmax, normalises: true };

/// Of a model, every so many layers one has attention, where the file does not name them.
const DEFAULT_INTERVAL: usize = 4;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    of_gguf(keys, true, ProjectionRows::Apart)
}

pub(super) fn spec_with_experts(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    keys.with_experts(spec(keys)?, ROUTER)
}

/// Converters of Qwen3-Next leave the order of heads, and at first left q, k, v and z together.
pub(super) fn next(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    let rows = match keys.has_tensor("blk.0.ssm_in.weight") {
        true => ProjectionRows::Grouped,
        false => ProjectionRows::GroupedGates,
    };
    keys.with_experts(of_gguf(keys, false, rows)?, ROUTER)
}

/// `is_tiled`: value heads lie in the order of key heads, again and again.
fn of_gguf(keys: &Keys, is_tiled: bool, rows: ProjectionRows) -> anyhow::Result<DecoderSpec> {
    let mut spec = with_gates(keys.llama_like(RopeStyle::Neox)?);
    let has_attention = has_attention(keys, spec.num_layers())?;
    // The last ones draft tokens, which is not the model's text.
    let num_drafting = keys.optional_dimension("nextn_predict_layers")?.unwrap_or(0);
    ensure!(
        num_drafting < spec.num_layers(),
        "{} is {num_drafting}, of {} layers",
        keys.key("nextn_predict_layers"),
        spec.num_layers()
    );
    spec.layers.truncate(spec.num_layers() - num_drafting);
    for (layer, has_attention) in spec.layers.iter_mut().zip(has_attention) {
        layer.is_recurrent = !has_attention;
    }
    let num_value_heads = keys.dimension("ssm.time_step_rank")?;
    let inner_size = keys.dimension("ssm.inner_size")?;
    let heads = GatedDeltaSpec {
        num_key_heads: keys.dimension("ssm.group_count")?,
        num_value_heads,
        key_dim: keys.dimension("ssm.state_size")?,
        value_dim: inner_size / num_value_heads,
        is_tiled,
    };
    ensure!(
        inner_size.is_multiple_of(num_value_heads),
        "{} is {inner_size}, which {num_value_heads} heads cannot share",
        keys.key("ssm.inner_size")
    );
    let taps = keys.dimension("ssm.conv_kernel")?;
    spec.gated_delta = Some(checked(RecurrentSpec { heads, taps, has_log_rates: false, rows })?);
    Ok(spec)
}

/// Of each layer: a list in the file, or one in so many.
fn has_attention(keys: &Keys, num_layers: usize) -> anyhow::Result<Vec<bool>> {
    let key = keys.key("attention.recurrent_layers");
    if let Some(is_recurrent) = keys.file.metadata().bool_or_bools(&key, num_layers)? {
        return Ok(is_recurrent.into_iter().map(|is_recurrent| !is_recurrent).collect());
    }
    let interval = keys.optional_dimension("full_attention_interval")?.unwrap_or(DEFAULT_INTERVAL);
    Ok((1..=num_layers).map(|layer| layer.is_multiple_of(interval)).collect())
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    of_config(keys, ProjectionRows::Apart)
}

pub(super) fn moe_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    keys.with_experts(of_config(keys, ProjectionRows::Apart)?, ROUTER, ExpertLayout::Rows)
}

/// Qwen3-Next has the projections of Gated DeltaNet in two tensors.
pub(super) fn next_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    keys.with_experts(of_config(keys, ProjectionRows::Grouped)?, ROUTER, ExpertLayout::Rows)
}

fn of_config(keys: &ConfigKeys, rows: ProjectionRows) -> anyhow::Result<DecoderSpec> {
    let mut spec = with_gates(keys.llama_like()?);
    spec.zero_centred_norms = true;
    let text = keys.text();
    if !text.has("layer_types") {
        let interval = text.optional_dimension("full_attention_interval")?;
        let interval = interval.unwrap_or(DEFAULT_INTERVAL);
        for (index, layer) in spec.layers.iter_mut().enumerate() {
            layer.is_recurrent = !(index + 1).is_multiple_of(interval);
        }
    }
    let heads = GatedDeltaSpec {
        num_key_heads: text.dimension("linear_num_key_heads")?,
        num_value_heads: text.dimension("linear_num_value_heads")?,
        key_dim: text.dimension("linear_key_head_dim")?,
        value_dim: text.dimension("linear_value_head_dim")?,
        is_tiled: false,
    };
    let taps = text.dimension("linear_conv_kernel_dim")?;
    spec.gated_delta = Some(checked(RecurrentSpec { heads, taps, has_log_rates: true, rows })?);
    Ok(spec)
}

fn with_gates(spec: DecoderSpec) -> DecoderSpec {
    DecoderSpec { qk_norm: true, attention_gate: true, ..spec }
}

/// That later arithmetic is safe.
fn checked(spec: RecurrentSpec) -> anyhow::Result<RecurrentSpec> {
    let GatedDeltaSpec { num_key_heads, num_value_heads, key_dim, value_dim, .. } = spec.heads;
    ensure!(
        num_value_heads.is_multiple_of(num_key_heads),
        "{num_value_heads} value heads are not a multiple of {num_key_heads} key heads"
    );
    let most = [num_key_heads, num_value_heads, key_dim, value_dim].into_iter().max();
    ensure!(most <= Some(4096), "linear attention of {:?} is not supported", spec.heads);
    ensure!((2..=8).contains(&spec.taps), "a convolution of {} tokens is not supported", spec.taps);
    Ok(spec)
}
