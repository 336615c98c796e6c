//! BERT (Devlin et al. 2018) and its kin RoBERTa and XLM-RoBERTa, which count positions from behind the padding's.

use anyhow::{Context, ensure};

use super::config_keys::ConfigKeys;
use super::encoder_spec::{EncoderSpec, PositionTable};
use super::gguf_keys::Keys;

pub(super) fn spec(keys: &Keys) -> anyhow::Result<EncoderSpec> {
    let spec = keys.encoder()?;
    ensure!(spec.positions.is_some(), "the file has no tensor \"position_embd.weight\"");
    Ok(spec)
}

pub(super) fn spec_of_config(keys: &ConfigKeys) -> anyhow::Result<EncoderSpec> {
    with_positions(keys, 0)
}

/// transformers' own default of `pad_token_id`.
const PADDING: usize = 1;

pub(super) fn roberta_of_config(keys: &ConfigKeys) -> anyhow::Result<EncoderSpec> {
    // 0 counts as absent there, but is a token here.
    let padding = keys.text().number("pad_token_id")?.map_or(PADDING, |id| id as usize);
    with_positions(keys, padding.saturating_add(1))
}

fn with_positions(keys: &ConfigKeys, first_row: usize) -> anyhow::Result<EncoderSpec> {
    let text = keys.text();
    let kind = text.string("position_embedding_type")?.unwrap_or("absolute");
    ensure!(
        kind == "absolute",
        "{} is \"{kind}\"; absolute is supported",
        text.name_of("position_embedding_type")
    );
    let spec = keys.encoder()?;
    let num_rows = spec.context_length as usize;
    let context_length = num_rows.checked_sub(first_row).filter(|&length| length > 0);
    let context_length = context_length
        .with_context(|| format!("{} leaves no position for text", text.name_of("pad_token_id")))?;
    Ok(EncoderSpec {
        context_length: context_length as u32,
        positions: Some(PositionTable { num_rows, first_row }),
        ..spec
    })
}
