//! Runs one step: owns the model, its memory and the rows.

pub(crate) mod drafting;
mod graphs;
mod on_gpu;

use std::ops::Range;

use quire_kernels::cpu::StayNear;
use quire_kernels::{Device, DeviceError, DeviceHealth, GroupId, RankGroup, Tensor, copy_slots};
use quire_scheduler::{
    SampledSequence, ScheduledSequence, SchedulerOutput, SequenceId, StepId, StepOutput, TokenId,
};

use crate::config::{EngineConfig, Faults, RankFault};
use crate::kv_cache::KvCache;
use crate::masks::StepMasks;
use crate::models::{DraftHead, HeadSpec, Model, ModelSpec, Vocabulary};
use crate::pooling::{Pooler, PoolingSpec};
use crate::request::TokenLogprobs;
use crate::sampler::{Path, SampleTask, Sampler, token_logprobs};
use crate::sequence_table::{RowInit, SequenceTable};
use crate::speculative::{Ask, Guess};
use crate::step_input::StepBuffers;
use crate::workspace::Workspace;
use drafting::Drafting;
use on_gpu::GpuSteps;
pub use on_gpu::{MAX_END_TOKENS, sample_limits};

/// What a sequence that is pooled samples: the scheduler counts a token, and nobody reads it.
const NO_TOKEN: TokenId = 0;

/// What the runner gets for one step.
pub struct StepJob {
    pub output: SchedulerOutput,
    /// One entry for each of `output.admitted`.
    pub rows: Vec<RowInit>,
}

/// What the runner found.
pub struct StepResult {
    pub output: StepOutput,
    /// For each scheduled sequence those of its tokens, where asked for.
    pub logprobs: Vec<Vec<TokenLogprobs>>,
    pub prompt_logprobs: Vec<PromptLogprobs>,
    /// For each scheduled sequence, of those that are pooled and whose prompt is computed.
    pub embeddings: Vec<Option<Vec<f32>>>,
}

impl Default for StepResult {
    fn default() -> Self {
        let output = StepOutput { step: StepId(0), sequences: Vec::new() };
        Self { output, logprobs: Vec::new(), prompt_logprobs: Vec::new(), embeddings: Vec::new() }
    }
}

impl StepResult {
    /// Nothing sampled yet for the sequences of a step.
    fn clear(&mut self, output: &SchedulerOutput) {
        self.output.step = output.step;
        self.output.sequences.clear();
        self.output.sequences.resize_with(output.sequences.len(), SampledSequence::default);
        self.logprobs.iter_mut().for_each(Vec::clear);
        self.logprobs.resize_with(output.sequences.len(), Vec::new);
        self.embeddings.clear();
        self.embeddings.resize(output.sequences.len(), None);
    }
}

/// Log probabilities of prompt tokens that this step computed.
pub struct PromptLogprobs {
    pub id: SequenceId,
    /// Index in the prompt of the first entry's token.
    pub first_token: u32,
    pub entries: Vec<TokenLogprobs>,
}

/// A head that guesses for a model. It lives on the first rank; the others know what it keeps in the cache.
pub struct Guessing<'a> {
    pub spec: &'a HeadSpec,
    pub head: Option<DraftHead>,
    /// With the head, where ranks share the vocabulary of the model: all of it.
    pub vocabulary: Option<Vocabulary>,
}

/// A model with everything its steps need; all memory is taken in `new`.
pub struct ModelRunner {
    device: Device,
    model: Model,
    pooling: PoolingSpec,
    workspace: Workspace,
    kv_cache: KvCache,
    table: SequenceTable,
    buffers: StepBuffers,
    sampler: Sampler,
    masks: StepMasks,
    tasks: Vec<SampleTask>,
    gpu: Option<GpuSteps>,
    drafting: Option<Drafting>,
    /// For the head, where `model` has a rank's share.
    whole_vocabulary: Option<Vocabulary>,
    /// For each sequence of the step which of its drafts are right.
    paths: Vec<Path>,
    pooler: Pooler,
    /// Index in the step, and rows of `workspace.hidden`, of each sequence that is pooled.
    pooled: Vec<usize>,
    pooled_rows: Vec<(u32, u32)>,
    config: EngineConfig,
}

impl ModelRunner {
    /// `model`, what guesses for it, and what it was loaded as.
    pub fn new(
        device: Device,
        (model, guessing): (Model, Option<Guessing>),
        (spec, pooling): (&ModelSpec, PoolingSpec),
        config: &EngineConfig,
    ) -> Result<Self, DeviceError> {
        let max_num_seqs = config.max_num_seqs as usize;
        let max_tokens = config.max_num_batched_tokens as usize;
        let sampled_rows = config.max_sampled_rows();
        let workspace = Workspace::new(&device, spec, max_tokens, sampled_rows)?;
        let on_gpu = matches!(device, Device::Cuda(_));
        let layout = spec.cache_layout(guessing.as_ref().map(|own| own.spec), on_gpu);
        let num_blocks: Vec<usize> =
            config.cache_pools.iter().map(|pool| pool.num_blocks as usize).collect();
        let block_size = config.block_size as usize;
        let mut kv_cache =
            KvCache::new(&device, &layout, config.kv_dtype, &num_blocks, block_size)?;
        let mut buffers = StepBuffers::new(&device, config, layout.groups.len())?;
        if let ModelSpec::Encoder(spec) = spec {
            buffers.set_second_text_row(spec.second_text_row());
        }
        let (mut drafting, mut whole_vocabulary) = (None, None);
        if let (Some(guessing), Model::Decoder(model)) = (guessing, &model) {
            buffers.keep_all_rows(guessing.spec.wants_all_rows());
            whole_vocabulary = guessing.vocabulary;
            let memory = (model.spec().num_layers(), &mut kv_cache);
            let new = |head| Drafting::new(&device, head, memory, config);
            drafting = guessing.head.map(new).transpose()?;
        }
        let gpu = match (&device, &model) {
            // Drafts are verified before the next step: each runs to its end.
            (Device::Cuda(cuda), Model::Decoder(model)) if config.speculative.is_none() => {
                Some(GpuSteps::new(cuda, config, model)?)
            }
            _ => None,
        };
        Ok(Self {
            sampler: Sampler::new(workspace.logits.rows()),
            masks: StepMasks::new(spec.vocab_size()),
            workspace,
            kv_cache,
            table: new_table(config, &buffers),
            buffers,
            gpu,
            drafting,
            whole_vocabulary,
            paths: Vec::with_capacity(max_num_seqs),
            tasks: Vec::with_capacity(max_num_seqs),
            pooling,
            pooler: Pooler::default(),
            pooled: Vec::new(),
            pooled_rows: Vec::new(),
            config: config.clone(),
            device,
            model,
        })
    }

    /// Forgets every row: the scheduler will admit all sequences anew.
    pub fn reset(&mut self) {
        self.table = new_table(&self.config, &self.buffers);
        self.gpu.iter_mut().for_each(GpuSteps::forget);
        self.drafting.iter_mut().for_each(Drafting::forget);
    }

    /// Whether the device still works.
    pub fn health(&self) -> DeviceHealth {
        self.device.health()
    }

    /// Keeps the calling thread, which is to run steps, near its memory as long as the result lives.
    pub fn stay_near(&self) -> Option<StayNear> {
        self.device.stay_near()
    }

    /// One step: rows, forward pass, sampling. `result` is filled anew.
    pub fn run(&mut self, job: &mut StepJob, result: &mut StepResult) {
        let output = &job.output;
        self.enter(output, job.rows.drain(..));
        self.enter_drafts(output);
        self.masks.begin(output, &self.table);
        self.compute(output);
        self.prompt_logprobs(output, result);
        self.sample(output, result);
        if output.has_trees() {
            let paths = std::mem::take(&mut self.paths);
            self.move_right_drafts(output, &paths);
            self.paths = paths;
        }
        self.embed(output, result);
        if let (Some(drafting), Model::Decoder(model)) = (&mut self.drafting, &self.model) {
            let step = (output, &self.buffers, &self.table);
            let vocabulary = self.whole_vocabulary.as_ref().unwrap_or(model.vocabulary());
            drafting.follow((&self.device, vocabulary), &mut self.kv_cache, step, &self.paths);
        }
    }

    /// Between steps: what the head guesses of each ask's sequence, into its guess.
    pub fn draft(&mut self, asks: &[Ask], guesses: &mut [Guess]) {
        if let (Some(drafting), Model::Decoder(model)) = (&mut self.drafting, &self.model) {
            let vocabulary = self.whole_vocabulary.as_ref().unwrap_or(model.vocabulary());
            let at = (&self.device, vocabulary);
            drafting.draft(at, &mut self.kv_cache, &self.table, (asks, guesses));
        }
    }

    /// The part that a rank other than the first has in a step: everything but sampling.
    pub fn follow(&mut self, output: &SchedulerOutput, rows: &[RowInit]) {
        plant_rank_fault(&self.config.faults, output);
        self.enter(output, rows.iter().cloned());
        self.enter_drafts(output);
        self.compute(output);
        let Model::Decoder(model) = &self.model else { return };
        let (logits, ws) = ((&self.device, model), &mut self.workspace);
        for (rows, _) in prompt_rows(output, self.buffers.output_start_loc(), &self.table) {
            self.sampler.prompt_logits(logits, ws, rows);
        }
        enter_tasks(&mut self.tasks, output, &self.table);
        Sampler::logits(logits, ws, &self.tasks, self.buffers.sample_rows());
        if let Device::Cuda(cuda) = &self.device {
            // Nobody else waits for what was launched.
            cuda.synchronize();
        }
    }

    /// As `launch`, on a rank other than the first.
    pub fn launch_as_follower(&mut self, job: &mut StepJob, result: &mut StepResult) {
        plant_rank_fault(&self.config.faults, &job.output);
        self.launch(job, result);
    }

    /// Has this rank meet the others there; on GPUs it returns when all have called it with the same `id`.
    pub fn join(&mut self, group: RankGroup, id: Option<GroupId>) -> Result<(), DeviceError> {
        let group = match id {
            Some(id) => group.on_gpu(&self.device, id)?,
            None => group,
        };
        self.model.set_group(group);
        Ok(())
    }

    pub fn is_on_gpu(&self) -> bool {
        matches!(self.device, Device::Cuda(_))
    }

    /// Which drafts of each sequence of the last step are right.
    pub fn paths(&self) -> &[Path] {
        &self.paths
    }

    /// On a rank other than the first: what the first sampled in that step.
    pub fn take_sampled(
        &mut self,
        output: &SchedulerOutput,
        (sampled, paths): (&[SampledSequence], &[Path]),
    ) {
        for (sequence, sampled) in output.sequences.iter().zip(sampled) {
            if sequence.samples {
                self.table.row_mut(sequence.row).take(sequence.num_drafts, &sampled.tokens);
            }
        }
        if output.has_trees() {
            self.move_right_drafts(output, paths);
        }
    }

    /// Tells the other ranks that this one cannot go on.
    pub fn fail_group(&self, why: &str) {
        if let Some(group) = self.model.group() {
            group.fail(why);
        }
    }

    /// The forward pass.
    fn compute(&mut self, output: &SchedulerOutput) {
        let input = self.buffers.gather(&self.device, output, &self.table);
        plant_panic(&self.config.faults, input.token_ids.host());
        let (device, ws, kv) = (&self.device, &mut self.workspace, &mut self.kv_cache);
        match (&mut self.drafting, &self.model) {
            (Some(drafting), Model::Decoder(model)) => {
                let vocabulary = self.whole_vocabulary.as_ref().unwrap_or(model.vocabulary());
                drafting.begin((device, vocabulary), kv, (output, &self.table));
                let num_layers = model.spec().num_layers();
                let observe = |rows: &Tensor, count: usize| {
                    drafting.observe(device, num_layers, rows.first_rows(count));
                };
                model.forward_observed(device, ws, kv, &input, observe);
            }
            (_, model) => model.forward(device, ws, kv, &input),
        }
        self.table.clear_changes();
    }

    /// Who leaves, who comes, and the blocks that rows grow by.
    fn enter(&mut self, output: &SchedulerOutput, rows: impl Iterator<Item = RowInit>) {
        output.freed_rows.iter().for_each(|&row| self.table.release(row));
        rows.for_each(|init| self.table.admit(init));
        for sequence in &output.sequences {
            self.table.enter_blocks(sequence.row, output.new_blocks_of(sequence));
        }
    }

    /// Pools the sequences whose prompt this step has computed, and that want an embedding.
    fn embed(&mut self, output: &SchedulerOutput, result: &mut StepResult) {
        self.pooled.clear();
        self.pooled_rows.clear();
        for (index, sequence) in output.sequences.iter().enumerate() {
            let is_pooled = self.table.row(sequence.row).sampling.pooling.is_some();
            if !is_pooled || !sequence.samples {
                continue;
            }
            let rows = match self.model {
                // Of all rows the last alone is there.
                Model::Decoder(_) => {
                    let end = self.buffers.output_start_loc()[index + 1];
                    (end - 1, end)
                }
                Model::Encoder(_) => {
                    let starts = self.buffers.query_start_loc();
                    (starts[index], starts[index + 1])
                }
            };
            self.pooled.push(index);
            self.pooled_rows.push(rows);
        }
        if self.pooled.is_empty() {
            return;
        }
        let (spec, table, pooled) = (self.pooling, &self.table, &self.pooled);
        let head = match &self.model {
            Model::Encoder(model) => model.rank_head().filter(|_| spec.scores.is_some()),
            Model::Decoder(_) => None,
        };
        let nan_on_token = self.config.faults.nan_on_token;
        let sampled = &mut result.output.sequences;
        let embeddings = &mut result.embeddings;
        let (device, ws) = (&self.device, &mut self.workspace);
        self.pooler.pool(device, ws, spec.kind, &self.pooled_rows, |turn, row| {
            let index = pooled[turn];
            let owner = table.row(output.sequences[index].row);
            let params = owner.sampling.pooling.unwrap_or_default();
            let is_poisoned = nan_on_token.is_some_and(|token| owner.tokens.contains(&token));
            sampled[index].tokens.push(NO_TOKEN);
            let failed = is_poisoned || !row.iter().all(|x| x.is_finite());
            sampled[index].failed = failed;
            embeddings[index] = (!failed).then(|| match head {
                Some(head) => head.logits(row),
                None => spec.finish(row.to_vec(), params),
            });
        });
    }

    /// Drafts are tokens of their rows for the time of the step.
    fn enter_drafts(&mut self, output: &SchedulerOutput) {
        let mut drafts = &output.draft_tokens[..];
        for sequence in output.sequences.iter().filter(|sequence| sequence.num_drafts > 0) {
            let (own, others) = drafts.split_at(sequence.num_drafts as usize);
            self.table.row_mut(sequence.row).tokens.extend_from_slice(own);
            drafts = others;
        }
    }

    fn sample(&mut self, output: &SchedulerOutput, result: &mut StepResult) {
        enter_tasks(&mut self.tasks, output, &self.table);
        self.paths.clear();
        self.paths.resize(output.sequences.len(), Path::default());
        result.clear(output);
        let Model::Decoder(model) = &self.model else { return };
        self.masks.wait();
        let (sequences, table) = (&output.sequences, &self.table);
        let nan_on_token = self.config.faults.nan_on_token;
        let is_poisoned = |sequence: &ScheduledSequence, position: u32| {
            nan_on_token == Some(table.row(sequence.row).tokens[position as usize])
        };
        let (sampled_out, logprobs) = (&mut result.output.sequences, &mut result.logprobs);
        let paths = &mut self.paths;
        self.sampler.sample(
            (&self.device, model),
            &mut self.workspace,
            (&self.tasks, self.buffers.sample_rows(), output),
            (table, &self.masks),
            is_poisoned,
            |task, sampled, path| {
                let index = task.index as usize;
                paths[index] = path;
                sampled_out[index].failed = !sampled[0].finite;
                sampled_out[index].tokens = sampled.iter().map(|sampled| sampled.token).collect();
                if table.row(sequences[index].row).sampling.params.logprobs.is_some() {
                    logprobs[index].extend(sampled.iter().map(token_logprobs));
                }
            },
        );
        for task in &self.tasks {
            let index = task.index as usize;
            let tokens = &result.output.sequences[index].tokens;
            self.table.row_mut(sequences[index].row).take(task.num_drafts, tokens);
        }
    }

    /// Drafts of a tree have a place each. The keys and values of the right ones go to where a chain has them.
    fn move_right_drafts(&mut self, output: &SchedulerOutput, paths: &[Path]) {
        let Model::Decoder(model) = &self.model else { return };
        let mut copies = Vec::new();
        for (layer, spec) in model.spec().layers.iter().enumerate() {
            if spec.is_recurrent || spec.kv_of.is_some() {
                continue;
            }
            let group = self.kv_cache.group(layer);
            copies.clear();
            for (sequence, path) in output.sequences.iter().zip(paths) {
                let first = sequence.start + sequence.num_tokens - sequence.num_drafts;
                let (blocks, size) =
                    (self.table.blocks(sequence.row, group), self.config.block_size);
                let slot = |draft: u32| {
                    let position = first + draft;
                    blocks[(position / size) as usize] * size + position % size
                };
                let right = (0..path.num_right).map(|index| (path.draft(index), index as u32));
                let moved = right.filter(|(from, to)| from != to);
                copies.extend(moved.map(|(from, to)| (slot(from), slot(to))));
            }
            copy_slots(&self.device, self.kv_cache.layer_mut(layer), &copies);
        }
    }

    fn prompt_logprobs(&mut self, output: &SchedulerOutput, result: &mut StepResult) {
        result.prompt_logprobs.clear();
        let Model::Decoder(model) = &self.model else { return };
        let first_rows = self.buffers.output_start_loc();
        for (rows, sequence) in prompt_rows(output, first_rows, &self.table) {
            let row = self.table.row(sequence.row);
            let first_token = sequence.start + 1;
            let mut entries = Vec::with_capacity(rows.len());
            self.sampler.prompt_logprobs(
                (&self.device, model),
                &mut self.workspace,
                rows.start,
                &row.tokens[first_token as usize..][..rows.len()],
                row.sampling.params.prompt_logprobs.unwrap_or(0),
                &mut entries,
            );
            result.prompt_logprobs.push(PromptLogprobs { id: sequence.id, first_token, entries });
        }
    }
}

/// The sequences that get tokens in a step.
fn enter_tasks(tasks: &mut Vec<SampleTask>, output: &SchedulerOutput, table: &SequenceTable) {
    tasks.clear();
    for (index, sequence) in output.sequences.iter().enumerate() {
        if sequence.samples && table.row(sequence.row).sampling.pooling.is_none() {
            tasks.push(SampleTask { index: index as u32, num_drafts: sequence.num_drafts });
        }
    }
}

/// The sequences whose prompts' log probabilities are asked for, with the rows of the last hidden states that this step
/// gives for them.
fn prompt_rows<'a>(
    output: &'a SchedulerOutput,
    first_rows: &'a [u32],
    table: &'a SequenceTable,
) -> impl Iterator<Item = (Range<u32>, &'a ScheduledSequence)> {
    output.sequences.iter().zip(first_rows).filter_map(move |(sequence, &first)| {
        let row = table.row(sequence.row);
        // The row at position p predicts the token at p + 1.
        let end = (sequence.start + sequence.num_tokens + 1).min(row.num_prompt_tokens as u32);
        let num_rows = end.saturating_sub(sequence.start + 1);
        let is_asked = row.sampling.params.prompt_logprobs.is_some() && num_rows > 0;
        is_asked.then_some((first..first + num_rows, sequence))
    })
}

fn new_table(config: &EngineConfig, buffers: &StepBuffers) -> SequenceTable {
    let (max_num_seqs, num_groups) = (config.max_num_seqs, config.cache_groups.len());
    let (max_model_len, block_size) = (config.max_model_len, config.block_size);
    let table = SequenceTable::new(max_num_seqs, max_model_len, block_size, num_groups);
    if buffers.follows_changes() { table.with_changes() } else { table }
}

fn plant_panic(faults: &Faults, token_ids: &[u32]) {
    if let Some(token) = faults.panic_on_token {
        assert!(!token_ids.contains(&token), "planted: the step computes token {token}");
    }
}

/// What a test wants a rank other than the first to do.
fn plant_rank_fault(faults: &Faults, output: &SchedulerOutput) {
    match faults.on_other_rank {
        Some((step, RankFault::Panic)) if output.step.0 == step => panic!("planted"),
        Some((step, RankFault::Hang(time))) if output.step.0 == step => std::thread::sleep(time),
        _ => {}
    }
}
