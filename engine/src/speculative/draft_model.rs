//! Drafts by a smaller model, or by the model without some of its layers, with a scheduler, a runner and a KV cache of its own.
//!
//! Each round the text of a sequence is a new request for a few tokens. Nothing has to be taken back after wrong drafts:
//! the prefix cache finds the blocks of what is still true, and the rest, less than a block and the last step's tokens,
//! is computed with the first draft. Windows, recurrent states and lack of memory are the scheduler's to handle as ever.
//!
//! The draft model samples as the target does, with the sequence's settings, seed and position: where both would give a
//! token the same place between 0 and 1, both draw it (see `verify_drafts`).

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use quire_scheduler::{
    DraftTree, NewSequence, Scheduler, SchedulerOutput, SequenceId, StopRule, Tenant,
};

use super::step_cost::StepCost;
use super::{Ask, Guess, Kind, Making, Proposer, vocabulary};
use crate::config::{DeviceChoice, Faults, SchedulingPolicy};
use crate::engine::scheduler_config;
use crate::gpu::{self, Place};
use crate::kv_cache::KvCache;
use crate::load::load_runner;
use crate::model_runner::{StepJob, StepResult};
use crate::models::spec_of;
use crate::plan::kv_dtype;
use crate::ranks::Ranks;
use crate::sequence_table::{RowInit, RowSampling};
use crate::step_runner::{Reply, StepRunner};
use crate::weights::ModelFiles;
use crate::{EngineOptions, Machine, MemoryPlan};

/// Small, since on average half a block is computed again each round.
const BLOCK_SIZE: u32 = 8;
/// Tokens of the draft model's KV cache, of all sequences together; longer sequences get no drafts.
const KV_TOKENS: u64 = 1 << 14;
/// Of the free memory it takes one part in so many at most.
const KV_SHARE: u64 = 8;

/// A smaller model of the same vocabulary: a GGUF file or a directory.
pub const DRAFT: Kind =
    Kind { name: "draft", argument: "PATH", check: |_| Ok(()), load: load_draft };

fn load_draft(making: Making) -> anyhow::Result<Box<dyn Proposer>> {
    let path = making.settings.method.of(&DRAFT).unwrap_or_default();
    DraftModel::boxed(&ModelFiles::open(Path::new(path))?, &making)
}

/// The model itself without these layers.
pub const SKIP: Kind = Kind {
    name: "skip",
    argument: "FIRST-LAST",
    check: |layers| parse_layers(layers).map(drop),
    load: |making| DraftModel::boxed(making.target, &making),
};

/// "4-8": the layers 4 to 8, counted from 0.
fn parse_layers(text: &str) -> Result<Range<usize>, String> {
    let numbers = text.split_once('-').map(|(first, last)| (first.parse(), last.parse::<u16>()));
    match numbers {
        Some((Ok(first), Ok(last))) if first <= usize::from(last) => {
            Ok(first..usize::from(last) + 1)
        }
        _ => Err("write skip:FIRST-LAST, as skip:4-8 for the layers 4 to 8, counted from 0".into()),
    }
}

pub struct DraftModel {
    scheduler: Scheduler,
    runner: StepRunner,
    max_model_len: usize,
    /// Tokens of the draft model and of its target: one may be filled up with more than the other.
    vocab_sizes: (u32, u32),
    /// How each sequence is sampled, without what only the client wants to see.
    sampling: HashMap<SequenceId, Arc<RowSampling>>,
    /// Of the draft model's steps.
    cost: StepCost,
    spare: (Vec<RowInit>, Box<StepResult>),
}

impl DraftModel {
    fn boxed(files: &ModelFiles, making: &Making) -> anyhow::Result<Box<dyn Proposer>> {
        let plan = making.draft.context("a draft model is planned before it is loaded")?;
        Ok(Box::new(Self::load(files, making.target, plan)?))
    }

    /// Loads the weights and takes all memory.
    pub fn load(
        files: &ModelFiles,
        target: &ModelFiles,
        plan: &MemoryPlan,
    ) -> anyhow::Result<Self> {
        let config = &plan.config;
        let runner = load_runner(files, plan, &|_, _| ())?;
        Ok(Self {
            scheduler: Scheduler::new(scheduler_config(config)).map_err(anyhow::Error::msg)?,
            runner: StepRunner::new(Ranks::new(vec![runner], None), false),
            max_model_len: config.max_model_len as usize,
            vocab_sizes: (plan.spec.vocab_size() as u32, spec_of(target)?.vocab_size() as u32),
            sampling: HashMap::new(),
            cost: StepCost::default(),
            spare: (Vec::new(), Box::default()),
        })
    }

    fn add(&mut self, ask: &Ask) {
        let sampling = || Arc::new(ask.sampling.for_drafts(self.vocab_sizes.0));
        self.sampling.entry(ask.id).or_insert_with(sampling);
        let nobody = Arc::from([]);
        let sequence = NewSequence {
            id: ask.id,
            prompt: ask.tokens.to_vec(),
            stop: StopRule {
                max_tokens: ask.most as u32,
                min_tokens: 0,
                eos_token_ids: Arc::clone(&nobody),
                stop_token_ids: nobody,
                ignore_eos: true,
            },
            tenant: Tenant::default(),
            priority: 0,
            cache_salt: ask.cache_salt,
            skip_prefix_cache: false,
        };
        // Whom the scheduler has no room for gets no drafts.
        let _ = self.scheduler.add(sequence);
    }

    /// One step of all that are asked for; `false` when nothing is left to do.
    fn step(&mut self, asks: &[Ask], guesses: &mut [Guess]) -> bool {
        let Some(output) = self.scheduler.schedule() else { return false };
        let num_rows = output.num_tokens() as usize;
        let (mut rows, result) = std::mem::take(&mut self.spare);
        rows.extend(self.rows(asks, &output));
        let start = Instant::now();
        self.runner.launch(StepJob { output, rows }, result);
        let Reply { rows, result, .. } = self.runner.wait();
        match result {
            Ok(result) => {
                self.cost.record(num_rows, start.elapsed().as_secs_f64());
                for event in self.scheduler.update(&result.output) {
                    if let Some(index) = asks.iter().position(|ask| ask.id == event.id) {
                        let drafts = &mut guesses[index].drafts;
                        event.new_tokens.iter().for_each(|&token| drafts.push(token));
                    }
                }
                self.spare = (rows, result);
                true
            }
            Err(panic) => {
                tracing::error!("a step of the draft model failed: {panic}");
                self.runner.reset();
                self.scheduler.abort_in_flight();
                false
            }
        }
    }

    fn rows(&self, asks: &[Ask], output: &SchedulerOutput) -> Vec<RowInit> {
        let row = |admitted: &quire_scheduler::Admitted| {
            let ask = asks.iter().find(|ask| ask.id == admitted.id);
            let ask = ask.expect("others have left after their round");
            let tokens = self.scheduler.tokens(ask.id).expect("a scheduled sequence has tokens");
            RowInit {
                row: admitted.row,
                tokens: tokens.to_vec(),
                num_prompt_tokens: ask.num_prompt_tokens,
                sampling: Arc::clone(&self.sampling[&ask.id]),
            }
        };
        output.admitted.iter().map(row).collect()
    }
}

impl Proposer for DraftModel {
    fn propose(&mut self, _target: &mut StepRunner, asks: &[Ask], guesses: &mut Vec<Guess>) {
        let first = guesses.len();
        guesses.resize(
            first + asks.len(),
            Guess { drafts: DraftTree::EMPTY, evidence: self.evidence() },
        );
        let (own_size, target_size) = self.vocab_sizes;
        let is_known = |tokens: &[u32]| {
            own_size >= target_size || tokens.iter().all(|&token| token < own_size)
        };
        let fits = |ask: &&Ask| {
            let len = ask.tokens.len() + ask.most;
            ask.most > 0 && len < self.max_model_len && is_known(ask.tokens)
        };
        let fitting: Vec<Ask> = asks.iter().filter(fits).copied().collect();
        fitting.iter().for_each(|ask| self.add(ask));
        // A long text is computed over several rounds: what a round computed stays in the prefix cache.
        let num_steps = fitting.iter().map(|ask| ask.most).max().unwrap_or(0);
        for _ in 0..num_steps {
            if !self.step(asks, &mut guesses[first..]) {
                break;
            }
        }
        for ask in &fitting {
            self.scheduler.cancel(ask.id);
        }
        if own_size > target_size {
            for guess in &mut guesses[first..] {
                let known = |token: &u32| *token < target_size;
                guess.drafts = guess.drafts.iter().copied().take_while(known).collect();
            }
        }
    }

    fn forget(&mut self, id: SequenceId) {
        self.sampling.remove(&id);
    }

    fn seconds(&self, num_sequences: usize, num_drafts: usize) -> Option<f64> {
        if num_drafts == 0 {
            return Some(0.0);
        }
        let step = |num_rows: usize| self.cost.seconds(num_rows).unwrap_or(0.0);
        let first = step(num_sequences * (1 + BLOCK_SIZE as usize / 2));
        Some(first + (num_drafts - 1) as f64 * step(num_sequences))
    }
}

/// What a method needs beside the model of `files`, which runs at `place`, where it has a draft model.
pub fn plan(
    (files, place): (&ModelFiles, &Place),
    options: &EngineOptions,
    machine: &Machine,
) -> anyhow::Result<Option<Box<MemoryPlan>>> {
    let Some(method) = options.speculative.as_ref().map(|own| &own.method) else { return Ok(None) };
    let flag = || format!("--speculative {method}");
    let plan = match (method.of(&DRAFT), method.of(&SKIP)) {
        (None, None) => return Ok(None),
        (Some(path), _) => {
            let draft = ModelFiles::open(Path::new(path)).with_context(flag)?;
            vocabulary::ensure_same(files, &draft).with_context(flag)?;
            plan_of((&draft, place), 0..0, options, machine)
        }
        (_, Some(layers)) => {
            let layers = parse_layers(layers).map_err(anyhow::Error::msg)?;
            let spec = spec_of(files)?;
            let spec = spec.decoder().context("it is an encoder, which writes no text")?;
            let num_layers = spec.num_layers();
            let are_independent = spec.layers.iter().all(|layer| layer.kv_of.is_none());
            ensure!(
                are_independent && spec.per_layer_inputs.is_none(),
                "{}: the layers of a {} model need each other's keys or inputs of their own",
                flag(),
                spec.architecture
            );
            ensure!(
                layers.end <= num_layers && layers.len() < num_layers,
                "{}: the model has the layers 0 to {}, and one must be left",
                flag(),
                num_layers - 1
            );
            plan_of((files, place), layers, options, machine)
        }
    };
    plan.with_context(flag).map(|plan| Some(Box::new(plan)))
}

/// The plan of a draft model beside that of its target, where that one runs; where a GPU was not asked for by name and has
/// no kernels for the draft model, on the CPU.
fn plan_of(
    (draft, place): (&ModelFiles, &Place),
    skipped_layers: Range<usize>,
    options: &EngineOptions,
    machine: &Machine,
) -> anyhow::Result<MemoryPlan> {
    ensure!(
        place.gpu().is_none() || options.data_parallel_size == 1,
        "on GPUs a draft model serves one engine: leave --data-parallel-size out, or choose ngram"
    );
    let spec = spec_of(draft)?;
    let spec = spec.decoder().context("it is an encoder, which writes no text")?;
    let (device, dtype) = match (place.gpu(), options.device) {
        (None, _) => (DeviceChoice::Cpu, kv_dtype(options)),
        (Some(_), DeviceChoice::Auto) => (DeviceChoice::Auto, gpu::kv_dtype(options)),
        (Some(gpu), _) => (DeviceChoice::Cuda(gpu.ordinal), gpu::kv_dtype(options)),
    };
    let kv_bytes = KV_TOKENS * KvCache::bytes_per_token(spec, dtype, place.gpu().is_some());
    let num_devices = place.gpu().map_or(1, |gpu| gpu.num_ranks) as u64;
    let available_memory = place.available_memory(machine, options) / num_devices;
    let options = EngineOptions {
        device,
        speculative: None,
        tensor_parallel_size: 1,
        data_parallel_size: 1,
        skipped_layers,
        // Of a hybrid states take up to a half.
        kv_cache_memory: Some((2 * kv_bytes).min(available_memory / KV_SHARE)),
        prefix_cache_memory: Some(u64::MAX),
        block_size: Some(BLOCK_SIZE),
        max_model_len: None,
        enable_prefix_caching: true,
        async_scheduling: None,
        scheduling_policy: SchedulingPolicy::Fcfs,
        long_prefill_token_threshold: 0,
        faults: Faults::default(),
        ..options.clone()
    };
    MemoryPlan::new(draft, &options, machine)
}
