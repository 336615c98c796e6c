//! DeepSeek-V3.2 and, as `glm-dsa`, GLM-5: DeepSeek-V3 whose layers attend to the positions that an indexer chooses. In GLM-5
//! a layer may take the choice of the last indexer before it.

use anyhow::{Context, bail, ensure};
use quire_kernels::{IndexSpec, RopeStyle};

use super::config_keys::ConfigKeys;
use super::deepseek2;
use super::gguf_keys::Keys;
use super::rope::RopeSpec;
use super::spec::{DecoderSpec, IndexerSpec, Reach};

/// What configurations may leave out, because transformers has it in its code.
const TOP_K: usize = 2048;
const HEAD_DIM: usize = 128;
const NUM_HEADS: usize = 64;
const GLM_NUM_HEADS: usize = 32;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    of_gguf(keys, RopeStyle::Neox)
}

pub(super) fn glm(keys: &Keys) -> anyhow::Result<DecoderSpec> {
    of_gguf(keys, RopeStyle::Interleaved)
}

fn of_gguf(keys: &Keys, style: RopeStyle) -> anyhow::Result<DecoderSpec> {
    let mut spec = deepseek2::spec(keys)?;
    let num_layers = spec.num_layers();
    // The last blocks write drafts.
    let num_drafting = keys.optional_dimension("nextn_predict_layers")?.unwrap_or(0);
    spec.layers.truncate(num_layers.saturating_sub(num_drafting).max(1));
    let heads = IndexSpec {
        num_heads: keys.dimension("attention.indexer.head_count")?,
        head_dim: keys.dimension("attention.indexer.key_length")?,
        top_k: keys.dimension("attention.indexer.top_k")?,
    };
    let key = keys.key("attention.indexer.types");
    let has_own = keys.file.metadata().bool_or_bools(&key, num_layers)?;
    let has_own = has_own.unwrap_or_else(|| vec![true; num_layers]);
    with_indexer(spec, heads, style, &has_own)
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    let spec = deepseek2::spec_of_config(keys)?;
    let has_own = vec![true; spec.num_layers()];
    with_indexer(spec, heads_of_config(keys, NUM_HEADS)?, RopeStyle::Neox, &has_own)
}

pub(super) fn glm_of_config(keys: &ConfigKeys) -> anyhow::Result<DecoderSpec> {
    let spec = deepseek2::spec_of_config(keys)?;
    let has_own = has_own_indexer(keys, spec.num_layers())?;
    with_indexer(spec, heads_of_config(keys, GLM_NUM_HEADS)?, RopeStyle::Interleaved, &has_own)
}

fn heads_of_config(keys: &ConfigKeys, num_heads: usize) -> anyhow::Result<IndexSpec> {
    let text = keys.text();
    Ok(IndexSpec {
        num_heads: text.optional_dimension("index_n_heads")?.unwrap_or(num_heads),
        head_dim: text.optional_dimension("index_head_dim")?.unwrap_or(HEAD_DIM),
        top_k: text.optional_dimension("index_topk")?.unwrap_or(TOP_K),
    })
}

/// Of each layer: a list (`full`, `shared`), a pattern of letters, or the first ones and then every so many.
fn has_own_indexer(keys: &ConfigKeys, num_layers: usize) -> anyhow::Result<Vec<bool>> {
    let text = keys.text();
    if let Some(kinds) = text.strings("indexer_types")? {
        let name = text.name_of("indexer_types");
        ensure!(kinds.len() >= num_layers, "{name} has {} entries", kinds.len());
        let is_full = |kind: &&str| match *kind {
            "full" => Ok(true),
            "shared" => Ok(false),
            other => bail!("{name} has \"{other}\", which is not supported"),
        };
        return kinds.iter().take(num_layers).map(is_full).collect();
    }
    if let Ok(Some(pattern)) = text.string("index_topk_pattern") {
        return Ok((0..num_layers).map(|at| pattern.as_bytes().get(at) != Some(&b'S')).collect());
    }
    let every = text.optional_dimension("index_topk_freq")?.unwrap_or(1);
    let offset = match text.has("index_skip_topk_offset") {
        true => text.optional_dimension("index_skip_topk_offset")?.unwrap_or(0),
        false => 2,
    };
    let is_full = |layer: usize| (layer + 1).saturating_sub(offset).is_multiple_of(every);
    Ok((0..num_layers).map(is_full).collect())
}

/// `spec` with an indexer in the layers that have one of their own, rotated by the model's frequencies.
fn with_indexer(
    mut spec: DecoderSpec,
    heads: IndexSpec,
    style: RopeStyle,
    has_own: &[bool],
) -> anyhow::Result<DecoderSpec> {
    let latent = spec.latent.context("an indexer needs latent attention")?;
    ensure!(latent.query_rank.is_some(), "an indexer needs queries made of a latent vector");
    let IndexSpec { num_heads, head_dim, .. } = heads;
    ensure!(
        (latent.rope_dim..=1024).contains(&head_dim) && num_heads <= 1024,
        "an indexer of {num_heads} heads of {head_dim} channels is not supported"
    );
    ensure!(has_own.first() == Some(&true), "the first layer has no indexer");
    for (layer, &is_own) in spec.layers.iter_mut().zip(has_own) {
        layer.reach = if is_own { Reach::Chosen } else { Reach::AsBefore };
    }
    spec.ropes.push(RopeSpec { style, ..spec.ropes[0].clone() });
    let top_k = heads.top_k.min(spec.context_length as usize);
    let heads = IndexSpec { top_k, ..heads };
    spec.indexer = Some(IndexerSpec { heads, rope: spec.ropes.len() - 1 });
    Ok(spec)
}
