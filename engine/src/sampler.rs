//! From the last hidden states of a step to tokens and log probabilities.

use std::ops::Range;

use quire_kernels::{
    Device, Drafts, Indices, SampleRow, Sampled, Verified, logprobs, verify_drafts,
};
use quire_scheduler::draft_tree::is_chain;
use quire_scheduler::{MAX_TOKENS_PER_STEP, ScheduledSequence, SchedulerOutput, TokenId};

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
    valid_rows: Vec<u8>, // [rows of ws.logits]
    texts: Texts,
}

/// The tokens before each row of a tree, whose rows do not follow one another.
#[derive(Default)]
struct Texts {
    tokens: Vec<TokenId>,
    ends: Vec<usize>,
}

/// Which of a sequence's drafts are right, from the known tokens on.
#[derive(Clone, Copy, Default)]
pub struct Path {
    drafts: [u8; MAX_TOKENS_PER_STEP],
    pub num_right: usize,
}

impl Path {
    /// `rows`: the sequence's rows that tokens were sampled from; 0, then each right draft, counted from 1.
    fn new(rows: &[u8]) -> Self {
        let mut path = Self { num_right: rows.len() - 1, ..Self::default() };
        path.drafts[..rows.len() - 1].copy_from_slice(&rows[1..]);
        path
    }

    /// The number of the right draft that comes after `index` others, from 0.
    pub fn draft(&self, index: usize) -> u32 {
        assert!(index < self.num_right, "so many drafts are right");
        u32::from(self.drafts[index]) - 1
    }
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
            valid_rows: vec![0; num_rows],
            texts: Texts::default(),
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
        mut take: impl FnMut(SampleTask, &[Sampled], Path),
    ) {
        let (mut tasks, mut drafts, mut first) = (tasks, 0, 0);
        while !tasks.is_empty() {
            let now = num_fitting(tasks, ws.logits.rows().min(MAX_LOGITS_ROWS));
            let (chunk, later) = tasks.split_at(now);
            let num_rows: usize = chunk.iter().map(|task| task.num_rows()).sum();
            let own_drafts = drafts..drafts + num_rows - chunk.len();
            let parents = &output.draft_parents[own_drafts.clone()];
            let tokens = &output.draft_tokens[own_drafts.clone()];
            model.logits(device, ws, hidden_rows.slice(first..first + num_rows));
            let mut texts = std::mem::take(&mut self.texts);
            texts.collect(chunk, output, table, parents);
            let mut rows = [SampleRow::default(); MAX_LOGITS_ROWS];
            let (mut row, mut num_texts) = (0, 0);
            let mut later_parents = parents;
            for task in chunk {
                let sequence = &output.sequences[task.index as usize];
                let known = sequence.start + sequence.num_tokens - task.num_drafts;
                let own_parents;
                (own_parents, later_parents) = later_parents.split_at(task.num_drafts as usize);
                let (is_tree, owner) = (!is_chain(own_parents), table.row(sequence.row));
                for num_tokens in known..=known + task.num_drafts {
                    let text = match is_tree {
                        true => texts.get(num_texts),
                        false => &owner.tokens[..num_tokens as usize],
                    };
                    num_texts += usize::from(is_tree);
                    rows[row] = sample_row(owner, text);
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
            self.verify(device, ws, &rows[..num_rows], chunk, (tokens, parents));
            self.texts = texts;
            self.hand_out(chunk, &mut take);
            (tasks, drafts, first) = (later, own_drafts.end, first + num_rows);
        }
    }

    fn verify(
        &mut self,
        device: &Device,
        ws: &mut Workspace,
        rows: &[SampleRow],
        tasks: &[SampleTask],
        (tokens, parents): (&[TokenId], &[u8]),
    ) {
        self.counts.clear();
        self.counts.extend(tasks.iter().map(|task| task.num_drafts));
        self.num_valid.clear();
        self.num_valid.resize(tasks.len(), 0);
        let sampled = &mut self.sampled[..rows.len()];
        let logits = ws.logits.first_rows_mut(rows.len());
        let drafts = Drafts { tokens, counts: &self.counts, parents };
        let valid_rows = &mut self.valid_rows[..rows.len()];
        let verified = Verified { num_valid: &mut self.num_valid, rows: valid_rows };
        verify_drafts(device, sampled, verified, logits, rows, drafts);
    }

    fn hand_out(&self, tasks: &[SampleTask], take: &mut impl FnMut(SampleTask, &[Sampled], Path)) {
        let mut first = 0;
        for (&task, &num_valid) in tasks.iter().zip(&self.num_valid) {
            let valid = first..first + num_valid as usize;
            take(task, &self.sampled[valid.clone()], Path::new(&self.valid_rows[valid]));
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

impl Texts {
    /// Of all rows of those tasks whose drafts are trees, in order. `parents`: of all drafts of the tasks.
    fn collect(
        &mut self,
        tasks: &[SampleTask],
        output: &SchedulerOutput,
        table: &SequenceTable,
        mut parents: &[u8],
    ) {
        self.tokens.clear();
        self.ends.clear();
        for task in tasks {
            let own;
            (own, parents) = parents.split_at(task.num_drafts as usize);
            if is_chain(own) {
                continue;
            }
            let sequence = &output.sequences[task.index as usize];
            let known = sequence.start + sequence.num_tokens - task.num_drafts;
            let tokens = &table.row(sequence.row).tokens;
            let first = self.ends.len();
            self.push(&tokens[..known as usize]);
            for (draft, &parent) in tokens[known as usize..].iter().zip(own) {
                let row = first + usize::from(parent);
                self.tokens.extend_from_within(self.range(row));
                self.push(&[*draft]);
            }
        }
    }

    /// Ends a text with these tokens.
    fn push(&mut self, tokens: &[TokenId]) {
        self.tokens.extend_from_slice(tokens);
        self.ends.push(self.tokens.len());
    }

    fn range(&self, index: usize) -> Range<usize> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        start..self.ends[index]
    }

    fn get(&self, index: usize) -> &[TokenId] {
        &self.tokens[self.range(index)]
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

/// The op's row after `tokens`: those of `row`, and drafts that may follow.
pub fn sample_row<'a>(row: &'a TableRow, tokens: &'a [TokenId]) -> SampleRow<'a> {
    let sampling = &row.sampling;
    let params = &sampling.params;
    let (prompt, output) = tokens.split_at(row.num_prompt_tokens);
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
