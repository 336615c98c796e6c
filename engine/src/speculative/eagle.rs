//! Drafts by an EAGLE head (Li et al. 2024, 2025) or a DFlash drafter: layers of their own that go on from the model's hidden
//! states, where the model keeps them. So the runner drafts (`model_runner/drafting.rs`), and this asks it to.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use quire_kernels::DType;
use quire_scheduler::{DraftTree, SequenceId};

use super::step_cost::StepCost;
use super::{Ask, Guess, Kind, MODEL_EVIDENCE, Proposer};
use crate::config::{EngineOptions, Weights};
use crate::gpu::Place;
use crate::kv_cache::KvCache;
use crate::model_runner::drafting::DraftingSize;
use crate::models::draft_head::HeadWorkspace;
use crate::models::{DecoderSpec, HeadSpec};
use crate::plan::BatchLimits;
use crate::step_runner::StepRunner;
use crate::weight_bytes::weight_bytes;
use crate::weights::ModelFiles;

/// A head of the model: a directory.
pub const EAGLE: Kind = Kind {
    name: "eagle",
    argument: "PATH",
    check: |_| Ok(()),
    load: |making| Ok(Box::new(Eagle::new(making.settings.eagle_topk > 1))),
};

pub struct Eagle {
    /// Of one draft of so many sequences, or of their trees.
    cost: StepCost,
    guesses_trees: bool,
}

impl Eagle {
    pub fn new(guesses_trees: bool) -> Self {
        Self { cost: StepCost::default(), guesses_trees }
    }
}

impl Proposer for Eagle {
    fn propose(&mut self, target: &mut StepRunner, asks: &[Ask], guesses: &mut Vec<Guess>) {
        let first = guesses.len();
        guesses.resize(
            first + asks.len(),
            Guess { drafts: DraftTree::EMPTY, evidence: self.evidence() },
        );
        let deepest = asks.iter().map(|ask| ask.most).max().unwrap_or(0);
        if deepest == 0 {
            return;
        }
        let start = Instant::now();
        target.draft(asks, &mut guesses[first..]);
        let num_passes = if self.guesses_trees { 1 } else { deepest };
        self.cost.record(asks.len(), start.elapsed().as_secs_f64() / num_passes as f64);
    }

    /// Nodes of a tree come by how likely they are, each of a class of its own.
    fn evidence(&self) -> u32 {
        if self.guesses_trees { 1 } else { MODEL_EVIDENCE }
    }

    fn forget(&mut self, _id: SequenceId) {}

    fn seconds(&self, num_sequences: usize, num_drafts: usize) -> Option<f64> {
        let num_passes = if self.guesses_trees { num_drafts.min(1) } else { num_drafts };
        Some(num_passes as f64 * self.cost.seconds(num_sequences).unwrap_or(0.0))
    }
}

/// The head that `--speculative` names, checked against the model.
pub fn plan(
    (files, spec): (&ModelFiles, &DecoderSpec),
    options: &EngineOptions,
    place: &Place,
    limits: BatchLimits,
) -> anyhow::Result<Option<HeadSpec>> {
    let Some(method) = options.speculative.as_ref().map(|own| &own.method) else { return Ok(None) };
    let Some(path) = method.of(&EAGLE).map(Path::new) else { return Ok(None) };
    let flag = || format!("--speculative {method}");
    let head = ModelFiles::open(path).with_context(flag)?;
    let head = HeadSpec::read(&head, (spec, files)).with_context(flag)?;
    place.ensure_runs(options, &head.decoder).with_context(flag)?;
    ensure_branches(options, &head, spec).with_context(flag)?;
    let (size, most) = (head.block.map_or(1, |block| block.size), limits.max_num_batched_tokens);
    ensure!(
        topk(options) <= most,
        "--speculative-eagle-topk {}: a step has {most} tokens (--max-num-batched-tokens)",
        topk(options)
    );
    ensure!(
        size <= most as usize,
        "{}: a block has {size} tokens, a step {most} (--max-num-batched-tokens)",
        flag()
    );
    Ok(Some(head))
}

/// That the head can make trees and the model verify them, where they are asked for.
fn ensure_branches(
    options: &EngineOptions,
    head: &HeadSpec,
    spec: &DecoderSpec,
) -> anyhow::Result<()> {
    let topk = topk(options);
    if topk == 1 {
        return Ok(());
    }
    let flag = format!("--speculative-eagle-topk {topk}");
    ensure!(head.block.is_none(), "{flag}: a DFlash drafter guesses whole blocks, not trees");
    let is_recurrent = spec.layers.iter().any(|layer| layer.is_recurrent);
    ensure!(
        !is_recurrent && spec.indexer.is_none(),
        "{flag}: a {} model computes tokens one after the other, or chooses among their keys; leave it out",
        spec.architecture
    );
    Ok(())
}

/// Nodes of a tree that a head goes on from at once.
fn topk(options: &EngineOptions) -> u32 {
    options.speculative.as_ref().map_or(1, |own| own.eagle_topk.max(1))
}

/// Bytes of the weights of a head, if there is one, buffers and own blocks; its keys and values are counted with the model's.
pub fn num_bytes(
    (files, spec, head): (&ModelFiles, &DecoderSpec, Option<&HeadSpec>),
    (options, place): (&EngineOptions, &Place),
    limits: BatchLimits,
    (kv_dtype, block_size): (DType, u32),
) -> anyhow::Result<u64> {
    let (Some(head), BatchLimits { max_num_seqs, max_num_batched_tokens }) = (head, limits) else {
        return Ok(0);
    };
    let weights = match options.weights {
        Weights::Packed => head.num_bytes,
        Weights::Float32 => head.num_bytes.saturating_mul(2),
    };
    let limits = (max_num_seqs as usize, max_num_batched_tokens as usize);
    let size = DraftingSize::new(head, limits, topk(options) as usize, block_size as usize);
    let bytes_per_token = KvCache::bytes_per_token(&head.decoder, kv_dtype, false);
    let own_blocks = size.num_blocks() as u64 * u64::from(block_size) * bytes_per_token;
    let workspace = HeadWorkspace::num_bytes(head, limits.1, size.num_rows, place.activations());
    let total = weights.saturating_add(workspace).saturating_add(own_blocks);
    let num_ranks = options.tensor_parallel_size;
    if num_ranks == 1 {
        return Ok(total);
    }
    // The first rank has the whole vocabulary beside its share. GPUs are planned alike, so each is planned to have what that takes.
    let without_layers = EngineOptions { skipped_layers: 0..spec.num_layers(), ..options.clone() };
    let vocabulary = weight_bytes(files, spec.tied_embeddings, &without_layers, place)?;
    let num_planned = place.gpu().map_or(1, |_| num_ranks as u64);
    Ok(total.saturating_add(vocabulary).saturating_mul(num_planned))
}
