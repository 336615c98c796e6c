//! CUDA graphs of whole steps: one for each size of a decode step and of a small mixed one. A step is filled up to the
//! next size with rows that belong to no sequence.

use std::collections::HashMap;

use quire_kernels::cuda::{CudaDevice, Graph};
use quire_scheduler::{ScheduledSequence, SchedulerOutput};

use crate::config::EngineConfig;
use crate::sequence_table::SequenceTable;
use crate::step_input::StepShape;

/// Sequences of the largest decode step that has a graph.
const MAX_DECODE: usize = 512;

/// Tokens of mixed steps that have graphs: larger ones take longer than their launches.
const MIXED: [usize; 3] = [16, 32, 64];

/// What of a step a graph has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    Whole,
    /// All but the sampler, which waits for masks.
    Forward,
}

/// The graphs met so far, at most one for each size.
pub struct Graphs {
    /// Ascending; empty: steps are launched op by op.
    decode_sizes: Vec<usize>,
    mixed_sizes: Vec<usize>,
    max_num_seqs: usize,
    /// `None`: one step of this shape has run, so all it needs is loaded and chosen.
    recorded: HashMap<(StepShape, Part), Option<Graph>>,
}

impl Graphs {
    pub fn new(config: &EngineConfig) -> Self {
        let (num_seqs, num_tokens) =
            (config.max_num_seqs as usize, config.max_num_batched_tokens as usize);
        let is_on = !config.enforce_eager && !config.faults.is_planted();
        let sizes = |sizes: &mut dyn Iterator<Item = usize>, most: usize| {
            let mut sizes: Vec<usize> = sizes.map(|size| size.min(most)).collect();
            sizes.dedup();
            if is_on { sizes } else { Vec::new() }
        };
        let decode = [1, 2, 4].into_iter().chain((8..256).step_by(8));
        let mut decode = decode.chain((256..=MAX_DECODE).step_by(16));
        Self {
            decode_sizes: sizes(&mut decode, num_seqs.min(num_tokens)),
            mixed_sizes: sizes(&mut MIXED.into_iter(), num_tokens),
            max_num_seqs: num_seqs,
            recorded: HashMap::new(),
        }
    }

    /// What the step is to be filled up to; `None`: it is launched op by op.
    pub fn shape_of(&self, output: &SchedulerOutput, table: &SequenceTable) -> Option<StepShape> {
        let sequences = &output.sequences;
        // The host asks where its rows are among the last layer's.
        let asks_for_rows = |sequence: &ScheduledSequence| {
            let row = table.row(sequence.row);
            let is_in_prompt = (sequence.start as usize + 1) < row.num_prompt_tokens;
            let has_logprobs = is_in_prompt && row.sampling.params.prompt_logprobs.is_some();
            has_logprobs || row.sampling.pooling.is_some()
        };
        let is_plain = output.draft_tokens.is_empty() && output.block_copies.is_empty();
        if !is_plain || sequences.iter().any(asks_for_rows) {
            return None;
        }
        let next = |sizes: &[usize], n| sizes.iter().copied().find(|&size| size >= n);
        if sequences.iter().all(|sequence| sequence.num_tokens == 1) {
            let size = next(&self.decode_sizes, sequences.len())?;
            return Some(StepShape { num_tokens: size, num_seqs: size, max_queries: 1 });
        }
        let size = next(&self.mixed_sizes, output.num_tokens() as usize)?;
        let num_seqs = size.min(self.max_num_seqs);
        Some(StepShape { num_tokens: size, num_seqs, max_queries: size })
    }

    /// Runs `compute`: the first time as it is, the second time recorded, then by its graph.
    pub fn run(
        &mut self,
        cuda: &CudaDevice,
        (shape, part): (Option<StepShape>, Part),
        compute: impl FnOnce(),
    ) {
        let Some(shape) = shape else { return compute() };
        match self.recorded.get_mut(&(shape, part)) {
            Some(Some(graph)) => graph.launch(),
            Some(not_yet) => not_yet.insert(cuda.record(compute)).launch(),
            None => {
                compute();
                self.recorded.insert((shape, part), None);
            }
        }
    }
}
