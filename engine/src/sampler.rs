//! From the last hidden states of a step to tokens and log probabilities.

use std::ops::Range;

use quire_kernels::{Device, Drafts, Indices, SampleRow, Sampled, logprobs, verify_drafts};
use quire_scheduler::{ScheduledSequence, SchedulerOutput, TokenId};

use crate::masks::StepMasks;
use crate::models::Decoder;
use crate::request::TokenLogprobs;
use crate::sequence_table::{SequenceTable, TableRow};
use crate::workspace::{MAX_LOGITS_ROWS, Workspace};

/// Buffers of the sampler, kept from step to step.
pub struct Sampler {
    sampled: Vec<Sampled>, // [rows of ws.logits]
    rows: Vec<u32>,        // rows of ws.hidden
    targets: Vec<u32>,
    num_top: Vec<u32>,
    counts: Vec<u32>, // drafts of each task
    num_valid: Vec<u32>,
}

/// A sequence that gets tokens: one after each draft, as far as they are right, and one after its known tokens.
#[derive(Clone, Copy)]
pub struct SampleTask {
    /// Index in the step's sequences.
    pub index: u32,
    pub num_drafts: u32,
}

impl SampleTask {
    fn num_rows(self) -> usize {
        1 + self.num_drafts as usize
    }
}

impl Sampler {
    /// `num_rows`: rows of logits that are computed at once.
    pub fn new(num_rows: usize) -> Self {
        let numbers = || Vec::with_capacity(num_rows);
        Self {
            sampled: vec![Sampled::default(); num_rows],
            rows: numbers(),
            targets: numbers(),
            num_top: numbers(),
            counts: numbers(),
            num_valid: numbers(),
        }
    }

    /// Samples tokens for each task, from its rows of `ws.hidden`, and hands those that count to `take`, in order. The
    /// drafts of a task are the last tokens of its row. `is_poisoned` says after which position of a sequence a test
    /// wants logits that are not numbers.
    pub fn sample(
        &mut self,
        (device, model): (&Device, &Decoder),
        ws: &mut Workspace,
        (tasks, hidden_rows, output): (&[SampleTask], Indices, &SchedulerOutput),
        (table, masks): (&SequenceTable, &StepMasks),
        is_poisoned: impl Fn(&ScheduledSequence, u32) -> bool,
        mut take: impl FnMut(SampleTask, &[Sampled]),
    ) {
        let (mut tasks, mut drafts, mut first) = (tasks, &output.draft_tokens[..], 0);
        while !tasks.is_empty() {
            let now = num_fitting(tasks, ws.logits.rows().min(MAX_LOGITS_ROWS));
            let (chunk, later) = tasks.split_at(now);
            let num_rows: usize = chunk.iter().map(|task| task.num_rows()).sum();
            let (own_drafts, other_drafts) = drafts.split_at(num_rows - chunk.len());
            model.logits(device, ws, hidden_rows.slice(first..first + num_rows));
            let mut rows = [SampleRow::default(); MAX_LOGITS_ROWS];
            let mut row = 0;
            for task in chunk {
                let sequence = &output.sequences[task.index as usize];
                let known = sequence.start + sequence.num_tokens - task.num_drafts;
                for num_tokens in known..=known + task.num_drafts {
                    rows[row] = sample_row(table.row(sequence.row), num_tokens as usize);
                    if let Some(mask) = masks.mask(task.index, num_tokens - known) {
                        // It knows what is banned.
                        (rows[row].allowed, rows[row].banned) = (Some(mask), &[]);
                    }
                    if is_poisoned(sequence, num_tokens - 1) {
                        let start = row * ws.logits.cols() * size_of::<f32>();
                        ws.logits.write_bytes(start, &f32::NAN.to_le_bytes());
                    }
                    row += 1;
                }
            }
            self.verify(device, ws, &rows[..num_rows], chunk, own_drafts);
            self.hand_out(chunk, &mut take);
            (tasks, drafts, first) = (later, other_drafts, first + num_rows);
        }
    }

    fn verify(
        &mut self,
        device: &Device,
        ws: &mut Workspace,
        rows: &[SampleRow],
        tasks: &[SampleTask],
        drafts: &[TokenId],
    ) {
        self.counts.clear();
        self.counts.extend(tasks.iter().map(|task| task.num_drafts));
        self.num_valid.clear();
        self.num_valid.resize(tasks.len(), 0);
        let sampled = &mut self.sampled[..rows.len()];
        let logits = ws.logits.first_rows_mut(rows.len());
        let drafts = Drafts { tokens: drafts, counts: &self.counts };
        verify_drafts(device, sampled, &mut self.num_valid, logits, rows, drafts);
    }

    fn hand_out(&self, tasks: &[SampleTask], take: &mut impl FnMut(SampleTask, &[Sampled])) {
        let mut first = 0;
        for (&task, &num_valid) in tasks.iter().zip(&self.num_valid) {
            take(task, &self.sampled[first..first + num_valid as usize]);
            first += task.num_rows();
        }
    }

    /// The logits that `sample` computes, in the same turns: what another rank than the first does.
    pub fn logits(
        (device, model): (&Device, &Decoder),
        ws: &mut Workspace,
        mut tasks: &[SampleTask],
        rows: Indices,
    ) {
        let mut first = 0;
        while !tasks.is_empty() {
            let (chunk, later) = tasks.split_at(num_fitting(tasks, ws.logits.rows()));
            let num_rows: usize = chunk.iter().map(|task| task.num_rows()).sum();
            model.logits(device, ws, rows.slice(first..first + num_rows));
            (tasks, first) = (later, first + num_rows);
        }
    }

    /// So for `prompt_logprobs`.
    pub fn prompt_logits(
        &mut self,
        (device, model): (&Device, &Decoder),
        ws: &mut Workspace,
        hidden_rows: Range<u32>,
    ) {
        let turn = ws.logits.rows();
        for first in hidden_rows.clone().step_by(turn) {
            self.rows.clear();
            self.rows.extend(first..hidden_rows.end.min(first + turn as u32));
            model.logits(device, ws, (&self.rows).into());
        }
    }

    /// Log probabilities of prompt tokens: row `first_hidden_row + i` of `ws.hidden` predicts `targets[i]`.
    pub fn prompt_logprobs(
        &mut self,
        (device, model): (&Device, &Decoder),
        ws: &mut Workspace,
        first_hidden_row: u32,
        targets: &[u32],
        num_top: u32,
        out: &mut Vec<TokenLogprobs>,
    ) {
        let chunk = ws.logits.rows();
        for (turn, targets) in targets.chunks(chunk).enumerate() {
            let first = first_hidden_row + (turn * chunk) as u32;
            self.rows.clear();
            self.rows.extend(first..first + targets.len() as u32);
            model.logits(device, ws, (&self.rows).into());
            self.targets.clear();
            self.targets.extend_from_slice(targets);
            self.num_top.clear();
            self.num_top.resize(targets.len(), num_top);
            let sampled = &mut self.sampled[..targets.len()];
            let logits = ws.logits.first_rows(targets.len());
            logprobs(device, sampled, logits, &self.targets, &self.num_top);
            out.extend(sampled.iter().map(token_logprobs));
        }
    }
}

/// How many of the first tasks have no more than `num_rows` rows together: at least one.
fn num_fitting(tasks: &[SampleTask], num_rows: usize) -> usize {
    let mut needed = 0;
    let fits = |task: &&SampleTask| {
        needed += task.num_rows();
        needed <= num_rows
    };
    let num_tasks = tasks.iter().take_while(fits).count();
    assert!(num_tasks > 0, "the rows of logits hold those of one sequence");
    num_tasks
}

/// The op's row after `num_tokens` tokens of `row.tokens`; drafts may follow there.
pub fn sample_row(row: &TableRow, num_tokens: usize) -> SampleRow<'_> {
    let sampling = &row.sampling;
    let params = &sampling.params;
    let (prompt, output) = row.tokens[..num_tokens].split_at(row.num_prompt_tokens);
    let num_output_tokens = output.len() as u32;
    SampleRow {
        temperature: params.temperature,
        top_k: params.top_k,
        top_p: params.top_p,
        min_p: params.min_p,
        repetition_penalty: params.repetition_penalty,
        presence_penalty: params.presence_penalty,
        frequency_penalty: params.frequency_penalty,
        prompt_tokens: prompt,
        output_tokens: output,
        logit_bias: &params.logit_bias,
        allowed: sampling.allowed(),
        banned: sampling.banned(num_output_tokens),
        seed: sampling.seed,
        position: num_output_tokens,
        num_logprobs: params.logprobs,
    }
}

/// The engine's form of what the op reports.
pub fn token_logprobs(sampled: &Sampled) -> TokenLogprobs {
    TokenLogprobs { logprob: sampled.logprob, rank: sampled.rank, top: sampled.top.clone() }
}
