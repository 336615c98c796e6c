//! From the last hidden states of a step to tokens and log probabilities.

use quire_kernels::{Device, Indices, SampleRow, Sampled, logprobs, sample};
use quire_scheduler::ScheduledSequence;

use crate::models::Decoder;
use crate::request::TokenLogprobs;
use crate::sequence_table::{SequenceTable, TableRow};
use crate::workspace::{MAX_LOGITS_ROWS, Workspace};

/// Buffers of the sampler, kept from step to step.
pub struct Sampler {
    sampled: Vec<Sampled>, // [MAX_LOGITS_ROWS]
    rows: Vec<u32>,        // rows of ws.hidden
    targets: Vec<u32>,
    num_top: Vec<u32>,
}

/// A sequence that gets a token.
#[derive(Clone, Copy)]
pub struct SampleTask {
    /// Index in the step's sequences.
    pub index: u32,
}

impl Sampler {
    pub fn new() -> Self {
        Self {
            sampled: vec![Sampled::default(); MAX_LOGITS_ROWS],
            rows: Vec::with_capacity(MAX_LOGITS_ROWS),
            targets: Vec::with_capacity(MAX_LOGITS_ROWS),
            num_top: Vec::with_capacity(MAX_LOGITS_ROWS),
        }
    }

    /// Samples one token for each task, from its row of `ws.hidden`, and hands it to `take`, in order. `is_poisoned` says for which tasks a test
    /// wants logits that are not numbers.
    pub fn sample(
        &mut self,
        (device, model): (&Device, &Decoder),
        ws: &mut Workspace,
        (tasks, hidden_rows, sequences): (&[SampleTask], Indices, &[ScheduledSequence]),
        table: &SequenceTable,
        is_poisoned: impl Fn(&SampleTask) -> bool,
        mut take: impl FnMut(SampleTask, &Sampled),
    ) {
        let mut first = 0;
        for tasks in tasks.chunks(ws.logits.rows()) {
            model.logits(device, ws, hidden_rows.slice(first..first + tasks.len()));
            first += tasks.len();
            for (row, _) in tasks.iter().enumerate().filter(|(_, task)| is_poisoned(task)) {
                let start = row * ws.logits.cols() * size_of::<f32>();
                ws.logits.write_bytes(start, &f32::NAN.to_le_bytes());
            }
            let mut rows = [SampleRow::default(); MAX_LOGITS_ROWS];
            for (row, task) in rows.iter_mut().zip(tasks) {
                let sequence = &sequences[task.index as usize];
                *row = sample_row(table.row(sequence.row), sequence.num_output_tokens);
            }
            let sampled = &mut self.sampled[..tasks.len()];
            let logits = ws.logits.first_rows_mut(tasks.len());
            sample(device, sampled, logits, &rows[..tasks.len()]);
            tasks.iter().zip(sampled).for_each(|(&task, sampled)| take(task, sampled));
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

/// The op's row for a sequence that has `num_output_tokens` tokens of output, all of them in `row.tokens`.
fn sample_row(row: &TableRow, num_output_tokens: u32) -> SampleRow<'_> {
    let sampling = &row.sampling;
    let params = &sampling.params;
    let (prompt, output) = row.tokens.split_at(row.num_prompt_tokens);
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
