//! Drafts by an EAGLE head (Li et al. 2024, 2025) or a DFlash drafter: layers of their own that go on from the model's hidden
//! states, where the model keeps them. So the runner drafts (`model_runner/drafting.rs`), and this asks it to.

use std::time::Instant;

use anyhow::{Context, ensure};
use quire_kernels::DType;
use quire_scheduler::{SequenceId, TokenList};

use super::step_cost::StepCost;
use super::{Ask, Guess, Proposer};
use crate::config::{EngineOptions, SpeculativeMethod, Weights};
use crate::gpu::Place;
use crate::kv_cache::KvCache;
use crate::model_runner::drafting::Drafting;
use crate::models::draft_head::HeadWorkspace;
use crate::models::{DecoderSpec, HeadSpec};
use crate::plan::BatchLimits;
use crate::step_runner::StepRunner;
use crate::weights::ModelFiles;

#[derive(Default)]
pub struct Eagle {
    /// Of one draft of so many sequences.
    cost: StepCost,
}

impl Proposer for Eagle {
    fn propose(&mut self, target: &mut StepRunner, asks: &[Ask], guesses: &mut Vec<Guess>) {
        let first = guesses.len();
        guesses.resize(first + asks.len(), Guess { drafts: TokenList::EMPTY, evidence: 1 });
        let deepest = asks.iter().map(|ask| ask.most).max().unwrap_or(0);
        if deepest == 0 {
            return;
        }
        let start = Instant::now();
        target.draft(asks, &mut guesses[first..]);
        self.cost.record(asks.len(), start.elapsed().as_secs_f64() / deepest as f64);
    }

    fn forget(&mut self, _id: SequenceId) {}

    fn seconds(&self, num_sequences: usize, num_drafts: usize) -> Option<f64> {
        Some(num_drafts as f64 * self.cost.seconds(num_sequences).unwrap_or(0.0))
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
    let SpeculativeMethod::Eagle(path) = method else { return Ok(None) };
    let flag = || format!("--speculative {method}");
    let num_ranks = options.tensor_parallel_size;
    ensure!(
        place.gpu().is_none(),
        "{}: heads run on the CPU alone; start with --device cpu",
        flag()
    );
    ensure!(num_ranks == 1, "{}: not with --tensor-parallel-size {num_ranks} yet", flag());
    let head = ModelFiles::open(path).with_context(flag)?;
    let head = HeadSpec::read(&head, (spec, files)).with_context(flag)?;
    let (size, most) = (head.block.map_or(1, |block| block.size), limits.max_num_batched_tokens);
    ensure!(
        size <= most as usize,
        "{}: a block has {size} tokens, a step {most} (--max-num-batched-tokens)",
        flag()
    );
    Ok(Some(head))
}

/// Bytes of the weights of a head, if there is one, buffers and own blocks; its keys and values are counted with the model's.
pub fn num_bytes(
    head: Option<&HeadSpec>,
    options: &EngineOptions,
    limits: BatchLimits,
    (kv_dtype, block_size): (DType, u32),
) -> u64 {
    let (Some(head), BatchLimits { max_num_seqs, max_num_batched_tokens }) = (head, limits) else {
        return 0;
    };
    let weights = match options.weights {
        Weights::Packed => head.num_bytes,
        Weights::Float32 => head.num_bytes.saturating_mul(2),
    };
    let rows = (max_num_batched_tokens as usize, max_num_seqs as usize);
    let bytes_per_token = KvCache::bytes_per_token(&head.decoder, kv_dtype, false);
    weights.saturating_add(HeadWorkspace::num_bytes(head, rows.0, rows.1)).saturating_add(
        Drafting::scratch_bytes(
            head,
            bytes_per_token,
            (max_num_seqs, max_num_batched_tokens),
            block_size,
        ),
    )
}
