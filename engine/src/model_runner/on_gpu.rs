//! Steps on a GPU: launched without waiting for the one before, and answered later. Tokens that the host does not know yet
//! are taken from where the sampler left them.

use std::collections::VecDeque;

use quire_kernels::cuda::CudaDevice;
use quire_kernels::{
    BansBefore, DType, Device, DeviceError, SampleLimits, SampleRow, SampleTable, Sampled,
};
use quire_scheduler::{Row, SchedulerOutput};

use super::graphs::{Graphs, Part};
use super::{ModelRunner, StepJob, StepResult, plant_panic};
use crate::config::{EngineConfig, Faults};
use crate::models::{Decoder, Model};
use crate::sampler::{sample_row, token_logprobs};
use crate::sequence_table::SequenceTable;
use crate::step_input::SampleInput;
use crate::workspace::{Workspace, num_logits_rows};

/// What only a GPU's steps need.
pub struct GpuSteps {
    sample_table: SampleTable,
    graphs: Graphs,
    /// In the order of their launches.
    in_flight: VecDeque<Vec<Task>>,
    /// Of the step launched last, whose rows wait for masks: those need the tokens of the steps before it.
    unsampled: Option<Vec<Task>>,
    spare: Vec<Vec<Task>>,
    answers: Vec<Sampled>,
}

/// A sequence that gets a token from a step in flight.
#[derive(Clone, Copy)]
struct Task {
    /// Index in the step's sequences.
    index: u32,
    row: Row,
    /// Which owner of the row it is for.
    admission: u64,
    has_logprobs: bool,
    is_constrained: bool,
    /// A test wants its logits not to be numbers.
    is_poisoned: bool,
}

/// Tokens that may end an answer, at most.
pub const MAX_END_TOKENS: usize = 1024;

/// What the sampler on a GPU is given room for.
pub fn sample_limits(
    vocabulary: usize,
    (max_num_seqs, max_model_len): (usize, usize),
    (max_token_list, max_logprobs): (usize, u32),
) -> SampleLimits {
    SampleLimits {
        num_rows: max_num_seqs,
        num_logits_rows: num_logits_rows(max_num_seqs, DType::BF16),
        vocabulary,
        max_tokens: max_model_len.saturating_add(1),
        max_biases: max_token_list,
        max_banned: max_token_list.saturating_mul(2).saturating_add(MAX_END_TOKENS),
        max_logprobs,
    }
}

impl GpuSteps {
    pub fn new(
        cuda: &CudaDevice,
        config: &EngineConfig,
        model: &Decoder,
    ) -> Result<Self, DeviceError> {
        let batch = (config.max_num_seqs as usize, config.max_model_len as usize);
        let lists = (config.max_token_list, config.max_logprobs);
        let limits = sample_limits(model.spec().vocab_size, batch, lists);
        Ok(Self {
            sample_table: SampleTable::new(cuda, limits)?,
            graphs: Graphs::new(config),
            in_flight: VecDeque::new(),
            unsampled: None,
            spare: Vec::new(),
            answers: Vec::new(),
        })
    }

    /// The sequences that get a token of the sampler's.
    fn tasks(
        &mut self,
        output: &SchedulerOutput,
        table: &SequenceTable,
        faults: &Faults,
    ) -> Vec<Task> {
        let mut tasks = self.spare.pop().unwrap_or_default();
        for (index, sequence) in output.sequences.iter().enumerate() {
            let row = table.row(sequence.row);
            if !sequence.samples || row.sampling.pooling.is_some() {
                continue;
            }
            let last = (sequence.start + sequence.num_tokens - 1) as usize;
            let poison = faults.nan_on_token;
            tasks.push(Task {
                index: index as u32,
                row: sequence.row,
                admission: row.admission,
                has_logprobs: row.sampling.params.logprobs.is_some(),
                is_constrained: row.sampling.guide().is_some(),
                is_poisoned: poison.is_some() && poison == row.tokens.get(last).copied(),
            });
        }
        tasks
    }

    /// Has the answers of the sampler that was launched last brought to the host.
    fn fetch(&mut self, tasks: Vec<Task>) {
        self.sample_table.fetch(tasks.len(), tasks.iter().any(|task| task.has_logprobs));
        self.in_flight.push_back(tasks);
    }

    /// Nobody waits for the steps in flight any more.
    pub fn forget(&mut self) {
        self.sample_table.forget();
        self.in_flight.clear();
        self.unsampled = None;
    }
}

impl ModelRunner {
    /// Whether a step can be launched before the one before it is finished: `launch` and `finish`, else `run`.
    pub fn runs_ahead(&self) -> bool {
        self.gpu.is_some()
    }

    /// Queues one step behind those launched before. `result` is filled anew, but for what `finish` finds.
    pub fn launch(&mut self, job: &mut StepJob, result: &mut StepResult) {
        let output = &job.output;
        self.enter(output, job.rows.drain(..));
        result.clear(output);
        self.launch_step(output);
        self.table.clear_changes();
        self.prompt_logprobs(output, result);
        self.embed(output, result);
    }

    fn launch_step(&mut self, output: &SchedulerOutput) {
        let Self { device, model, workspace, kv_cache, table, buffers, config, masks, .. } = self;
        let gpu = self.gpu.as_mut().expect("this runner has a GPU");
        let (Device::Cuda(cuda), Model::Decoder(model)) = (&*device, &*model) else {
            unreachable!("`gpu` is of a decoder on a CUDA device")
        };
        if !output.admitted.is_empty() {
            gpu.sample_table.admit(output.admitted.iter().map(|admitted| {
                let row = table.row(admitted.row);
                let settings = sample_row(row, &row.tokens);
                if row.sampling.guide().is_none() {
                    return (admitted.row.0, settings, row.sampling.bans());
                }
                // Its masks come step by step, and know what is banned.
                let allowed = Some(masks.blank());
                let settings = SampleRow { allowed, banned: &[], ..settings };
                (admitted.row.0, settings, BansBefore::default())
            }));
        }
        let tasks = gpu.tasks(output, table, &config.faults);
        let shape = gpu.graphs.shape_of(output, table);
        let sampled = gpu.sample_table.sampled();
        let (input, samples) = buffers.gather_ahead(device, output, table, sampled, shape);
        plant_panic(&config.faults, input.token_ids.host());
        assert!(gpu.unsampled.is_none(), "the step before this one has its sampler");
        let sample_table = &gpu.sample_table;
        if tasks.iter().any(|task| task.is_constrained) {
            gpu.graphs.run(cuda, (shape, Part::Forward), || {
                model.forward(device, workspace, kv_cache, &input);
            });
            gpu.unsampled = Some(tasks);
            if gpu.in_flight.is_empty() {
                self.sample_constrained();
            }
            return;
        }
        gpu.graphs.run(cuda, (shape, Part::Whole), || {
            model.forward(device, workspace, kv_cache, &input);
            sample((device, cuda, model), workspace, sample_table, (&samples, &tasks));
        });
        gpu.fetch(tasks);
    }

    /// Launches the sampler of the step whose rows wait for masks, which are made while its forward pass runs. The tokens of
    /// all steps before it are known.
    fn sample_constrained(&mut self) {
        let Self { device, model, workspace, table, buffers, masks, .. } = self;
        let gpu = self.gpu.as_mut().expect("this runner has a GPU");
        let (Device::Cuda(cuda), Model::Decoder(model)) = (&*device, &*model) else {
            unreachable!("`gpu` is of a decoder on a CUDA device")
        };
        let Some(tasks) = gpu.unsampled.take() else { return };
        let constrained = || tasks.iter().filter(|task| task.is_constrained);
        // A sequence that has left its row meanwhile needs no token.
        let rows = constrained().enumerate().filter_map(|(index, task)| {
            Some((index, table.row_if_of(task.row, task.admission)?, 0))
        });
        masks.begin_rows(rows);
        masks.wait();
        let made = constrained().enumerate();
        gpu.sample_table.set_masks(
            made.filter_map(|(index, task)| Some((task.row.0, masks.mask(index as u32, 0)?))),
        );
        let work = (&buffers.samples(), tasks.as_slice());
        sample((device, cuda, model), workspace, &gpu.sample_table, work);
        gpu.fetch(tasks);
    }

    /// Waits for the oldest step in flight and completes its result.
    pub fn finish(&mut self, result: &mut StepResult) {
        let gpu = self.gpu.as_mut().expect("this runner has a GPU");
        let mut tasks = gpu.in_flight.pop_front().expect("a step is finished once");
        gpu.sample_table.take(&mut gpu.answers);
        for (task, sampled) in tasks.drain(..).zip(&gpu.answers) {
            let index = task.index as usize;
            let answer = &mut result.output.sequences[index];
            answer.failed = !sampled.finite;
            answer.tokens.push(sampled.token);
            if task.has_logprobs {
                result.logprobs[index].push(token_logprobs(sampled));
            }
            // A sequence that has left its row meanwhile does not need the token.
            if let Some(row) = self.table.row_of(task.row, task.admission) {
                row.tokens.push(sampled.token);
            }
        }
        gpu.spare.push(tasks);
        if gpu.unsampled.is_some() && gpu.in_flight.is_empty() {
            self.sample_constrained();
        }
    }
}

/// The sampler, for all rows that the arrays have.
fn sample(
    (device, cuda, model): (&Device, &CudaDevice, &Decoder),
    ws: &mut Workspace,
    sample_table: &SampleTable,
    (samples, tasks): (&SampleInput, &[Task]),
) {
    let num_samples = samples.rows.len();
    for first in (0..num_samples).step_by(ws.logits.rows()) {
        let range = first..num_samples.min(first + ws.logits.rows());
        model.logits(device, ws, samples.rows.slice(range.clone()));
        let in_turn = tasks.iter().enumerate().skip(first).take(range.len());
        for (index, _) in in_turn.filter(|(_, task)| task.is_poisoned) {
            let start = (index - first) * ws.logits.cols() * size_of::<f32>();
            ws.logits.write_bytes(start, &f32::NAN.to_le_bytes());
        }
        let logits = ws.logits.first_rows_mut(range.len());
        let table_rows = samples.table_rows.slice(range.clone());
        let positions = samples.num_output_tokens.slice(range);
        sample_table.sample(cuda, &logits, table_rows, positions, first);
    }
}
