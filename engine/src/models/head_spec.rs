//! What an EAGLE head or a DFlash drafter is: read from its config.json and tensors, and checked against the model that it guesses for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use quire_kernels::DType;

use super::config_keys::ConfigKeys;
use super::spec::DecoderSpec;
use crate::weights::ModelFiles;
use crate::weights::directory::ModelDirectory;

/// Largest block of a drafter.
const MAX_BLOCK: usize = 64;

/// A head of one layer, or a drafter of some.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadSpec {
    pub path: PathBuf,
    /// Its layers, on the hidden size of the model. The vocabulary is that of its guesses.
    pub decoder: DecoderSpec,
    /// Tokens of the model.
    pub target_vocab_size: usize,
    pub features: Features,
    /// What is added to is the state after its norm (EAGLE-3).
    pub norm_before_residual: bool,
    /// For each of its tokens the model's; `None`: the same.
    pub to_target: Option<Arc<[u32]>>,
    /// It guesses blocks (DFlash).
    pub block: Option<BlockSpec>,
    /// Bytes of its files.
    pub num_bytes: u64,
}

/// A block of guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSpec {
    /// Tokens, the known first one counted.
    pub size: usize,
    /// Stands for tokens that are not known.
    pub mask_token: u32,
}

/// What of the model's forward pass a head is given.
#[derive(Clone, Debug, PartialEq)]
pub enum Features {
    /// What the model's last norm leaves: EAGLE-1 and 2 (Li et al. 2024, arXiv 2401.15077 and 2406.16858).
    Last,
    /// What these layers are given, side by side: EAGLE-3 (Li et al. 2025, arXiv 2503.01840), and DFlash.
    Inputs(Vec<usize>),
}

impl HeadSpec {
    /// Errors name what of the head does not fit the model.
    pub fn read(
        files: &ModelFiles,
        (target, target_files): (&DecoderSpec, &ModelFiles),
    ) -> anyhow::Result<Self> {
        let name = files.path().display();
        let directory = match files {
            ModelFiles::Directory(directory) if directory.is_draft_head() => directory,
            _ => bail!("{name} is no directory with an EAGLE head or a DFlash drafter"),
        };
        if let Some(tensor) = directory.unknown_tensor() {
            bail!("{name}: tensor {tensor:?} has no place in a head that guesses");
        }
        let mut decoder = ConfigKeys::new(directory, "eagle").llama_like()?;
        decoder.qk_norm = directory.has_tensor("blk.0.attn_q_norm.weight");
        let block = block(directory, target.vocab_size)?;
        let target_name = target_files.path();
        ensure_fits(files.path(), &decoder, (target, target_name))?;
        ensure!(
            block.is_some() || decoder.num_layers() == 1,
            "{name} has {} layers; a head has one",
            decoder.num_layers()
        );
        let has_windows = decoder.layers.iter().any(|layer| layer.window.is_some());
        ensure!(block.is_none() || !has_windows, "{name}: drafters with windows are not supported");
        let features = features(directory, (target, target_name))?;
        let draft_vocab_size = directory.config().top().optional_dimension("draft_vocab_size")?;
        decoder.vocab_size = draft_vocab_size.unwrap_or(decoder.vocab_size);
        let to_target = to_target(directory, decoder.vocab_size, target.vocab_size)?;
        ensure!(
            to_target.is_some() || decoder.vocab_size == target.vocab_size,
            "{name}: draft_vocab_size is {}, but d2t, which leads from there to the {} tokens of {}, is missing",
            decoder.vocab_size,
            target.vocab_size,
            target_name.display()
        );
        Ok(Self {
            path: files.path().to_owned(),
            decoder,
            target_vocab_size: target.vocab_size,
            features,
            norm_before_residual: flag(directory, "norm_before_residual")?,
            to_target,
            block,
            num_bytes: directory.num_bytes(),
        })
    }

    /// The layers whose keys and values a sequence keeps: those of the model, then the head's.
    pub fn beside(&self, target: &DecoderSpec) -> DecoderSpec {
        let mut all = target.clone();
        all.layers.extend_from_slice(&self.decoder.layers);
        all
    }

    /// Whether the model's last norm must leave all rows of a step.
    pub fn wants_all_rows(&self) -> bool {
        self.features == Features::Last
    }

    /// Of what rows go on from: the model's last norm leaves activations, sums are F32.
    pub fn state_dtype(&self, activations: DType) -> DType {
        match self.features {
            Features::Last => activations,
            Features::Inputs(_) => DType::F32,
        }
    }

    /// Channels that a token's states have in all that the head is given.
    pub fn feature_size(&self) -> usize {
        match &self.features {
            Features::Last => self.decoder.hidden_size,
            Features::Inputs(layers) => layers.len() * self.decoder.hidden_size,
        }
    }
}

fn ensure_fits(
    path: &Path,
    head: &DecoderSpec,
    (target, target_path): (&DecoderSpec, &Path),
) -> anyhow::Result<()> {
    let (name, target_name) = (path.display(), target_path.display());
    ensure!(
        head.hidden_size == target.hidden_size,
        "the head {name} has {} channels, the model {target_name} has {}",
        head.hidden_size,
        target.hidden_size
    );
    ensure!(
        head.vocab_size == target.vocab_size,
        "the head {name} is for a vocabulary of {} tokens, the model {target_name} has {}",
        head.vocab_size,
        target.vocab_size
    );
    Ok(())
}

/// A switch of the head's config.json, at its first level or in `eagle_config`; false where neither has it.
fn flag(directory: &ModelDirectory, key: &str) -> anyhow::Result<bool> {
    let top = directory.config().top();
    let nested = top.section("eagle_config")?.map(|section| section.bool(key));
    Ok(top.bool(key)?.or(nested.transpose()?.flatten()).unwrap_or(false))
}

fn features(
    directory: &ModelDirectory,
    (target, target_path): (&DecoderSpec, &Path),
) -> anyhow::Result<Features> {
    let name = directory.path().display();
    for key in ["norm_before_fc", "fc_norm", "norm_output"] {
        ensure!(!flag(directory, key)?, "{name}: heads with {key} are not supported");
    }
    let width = match directory.shape("fc.weight") {
        Some(&[_, width]) => width as usize,
        _ => bail!("{name}: fc.weight is no matrix"),
    };
    let hidden = target.hidden_size;
    let has_norm = |name: &str| directory.has_tensor(name);
    let sees_layers = has_norm("blk.0.hidden_norm.weight") || has_norm("hidden_norm.weight");
    let layers = match sees_layers {
        true => inputs(directory, (target, target_path))?,
        false => Vec::new(),
    };
    let (what, expected) = match sees_layers {
        true => (format!("{} layers", layers.len()), layers.len() * hidden),
        false => ("an embedding and a state".to_owned(), 2 * hidden),
    };
    ensure!(
        width == expected,
        "the head {name} takes {width} channels (fc.weight), but {what} of the model {} have {expected}",
        target_path.display()
    );
    Ok(if sees_layers { Features::Inputs(layers) } else { Features::Last })
}

/// The layers whose inputs a head is given. In `eagle_config` heads name layers by their outputs, as SpecForge and SGLang do,
/// and so do drafters; at the first level of config.json by their inputs, as vLLM does, whose defaults count too.
fn inputs(
    directory: &ModelDirectory,
    (target, target_path): (&DecoderSpec, &Path),
) -> anyhow::Result<Vec<usize>> {
    let (top, key) = (directory.config().top(), "eagle_aux_hidden_state_layer_ids");
    let nested = match top.section("dflash_config")? {
        Some(section) => Some(section.counts("target_layer_ids")),
        None => top.section("eagle_config")?.map(|section| section.counts(key)),
    };
    let num_layers = target.num_layers() as u64;
    let inputs: Vec<u64> = match (nested.transpose()?.flatten(), top.counts(key)?) {
        (Some(outputs), _) => outputs.iter().map(|output| output.saturating_add(1)).collect(),
        (None, Some(inputs)) => inputs,
        (None, None) => vec![2, num_layers / 2, num_layers.saturating_sub(3)],
    };
    let beyond = inputs.iter().find(|&&input| input >= num_layers);
    if let Some(input) = beyond {
        bail!(
            "the head {} asks for what layer {} leaves, but of the {num_layers} layers of {} the last one's is not kept",
            directory.path().display(),
            input.saturating_sub(1),
            target_path.display()
        );
    }
    Ok(inputs.into_iter().map(|input| input as usize).collect())
}

/// The block of a DFlash drafter.
fn block(directory: &ModelDirectory, vocab_size: usize) -> anyhow::Result<Option<BlockSpec>> {
    let top = directory.config().top();
    let Some(section) = top.section("dflash_config")? else { return Ok(None) };
    let name = directory.path().display();
    let size = top.dimension("block_size")?;
    ensure!((2..=MAX_BLOCK).contains(&size), "{name}: block_size {size} is not in 2..={MAX_BLOCK}");
    // 0 is a token, too.
    let mask_token = section.number("mask_token_id")?.filter(|&id| id >= 0.0);
    let mask_token = mask_token.filter(|&id| id.fract() == 0.0 && id < vocab_size as f64);
    let mask_token = mask_token.with_context(|| {
        format!("{name}: mask_token_id is none of the model's {vocab_size} tokens")
    })?;
    Ok(Some(BlockSpec { size, mask_token: mask_token as u32 }))
}

/// d2t has for each token of the head how far the model's id lies behind it.
fn to_target(
    directory: &ModelDirectory,
    num_drafts: usize,
    vocab_size: usize,
) -> anyhow::Result<Option<Arc<[u32]>>> {
    let Some(offsets) = directory.integers("d2t")? else { return Ok(None) };
    let name = directory.path().display();
    ensure!(
        offsets.len() == num_drafts,
        "{name}: d2t has {} entries for a vocabulary of {num_drafts} drafts",
        offsets.len()
    );
    let target = |(id, &offset): (usize, &i64)| {
        let target = offset.checked_add(id as i64).and_then(|target| u32::try_from(target).ok());
        target.filter(|&target| (target as usize) < vocab_size).with_context(|| {
            format!("{name}: d2t leads from token {id} out of the model's {vocab_size}")
        })
    };
    offsets.iter().enumerate().map(target).collect::<anyhow::Result<_>>().map(Some)
}
