//! From rows to the flat arrays of a step: token ids, positions, slots, and where each sequence lies in them.

use quire_kernels::{
    AttentionBatch, Device, DeviceError, Indices, NO_STATE, StateBatch, StateSegment, StepArrays,
};
use quire_scheduler::{MAX_TOKENS_PER_STEP, SchedulerOutput, StateSegment as Segment};

use crate::config::EngineConfig;
use crate::sequence_table::SequenceTable;

/// The arrays, kept from step to step so that none is allocated anew, and their copies on a GPU.
pub struct StepBuffers {
    token_ids: Vec<u32>,
    positions: Vec<u32>,
    slot_mappings: Vec<Vec<u32>>,
    state_segments: Vec<StateSegment>,
    state_start_loc: Vec<u32>,
    query_start_loc: Vec<u32>,
    context_lens: Vec<u32>,
    rows: Vec<u32>,
    output_rows: Vec<u32>,
    sample_rows: Vec<u32>,
    output_start_loc: Vec<u32>,
    block_size: u32,
    arrays: StepArrays,
}

/// One step's input; n = its tokens, s = its sequences, m = the rows that logits are computed from. Slots and block
/// tables are those of one cache group.
#[derive(Clone, Copy)]
pub struct StepInput<'a> {
    pub token_ids: Indices<'a>,       // [n]
    pub positions: Indices<'a>,       // [n]
    pub slot_mapping: Indices<'a>,    // [n]: block · block_size + offset
    pub query_start_loc: Indices<'a>, // [s + 1]
    pub context_lens: Indices<'a>,    // [s]: positions after this step
    pub rows: Indices<'a>,            // [s]: rows of `block_tables`
    pub output_rows: Indices<'a>,     // [m]: rows of the n that logits need, ascending
    pub block_tables: Indices<'a>,    // [max_num_seqs, max_blocks_per_seq]
    pub max_blocks_per_seq: usize,
    pub groups: GroupInputs<'a>,
    /// The recurrent states before and after each sequence's rows, of models that have states.
    pub states: StateBatch<'a>,
}

/// What differs from cache group to cache group.
#[derive(Clone, Copy, Default)]
pub struct GroupInputs<'a> {
    pub slot_mappings: &'a [Vec<u32>],
    pub block_tables: &'a [Vec<u32>],
    /// Where the device has them.
    pub arrays: Option<&'a StepArrays>,
}

/// The arrays in the order of their upload; a slot mapping of each cache group follows.
const TOKEN_IDS: usize = 0;
const POSITIONS: usize = 1;
const QUERY_START_LOC: usize = 2;
const CONTEXT_LENS: usize = 3;
const ROWS: usize = 4;
const OUTPUT_ROWS: usize = 5;
const SAMPLE_ROWS: usize = 6;
const STATE_SEGMENTS: usize = 7;
const STATE_START_LOC: usize = 8;
const SLOT_MAPPINGS: usize = 9;

impl StepInput<'_> {
    pub fn num_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// As seen by the layers of that cache group.
    #[must_use]
    pub fn of_group(&self, group: usize) -> Self {
        let (slots, tables) = (&self.groups.slot_mappings[group], &self.groups.block_tables[group]);
        let (slot_mapping, block_tables) = match self.groups.arrays {
            Some(arrays) => {
                (arrays.array(SLOT_MAPPINGS + group, slots), arrays.table(group, tables))
            }
            None => (slots.into(), tables.into()),
        };
        Self { slot_mapping, block_tables, ..*self }
    }

    /// What the attention op wants to know.
    pub fn batch(&self) -> AttentionBatch<'_> {
        AttentionBatch {
            query_start_loc: self.query_start_loc,
            context_lens: self.context_lens,
            block_tables: self.block_tables,
            rows: self.rows,
            max_blocks_per_seq: self.max_blocks_per_seq,
        }
    }
}

impl StepBuffers {
    pub fn new(
        device: &Device,
        config: &EngineConfig,
        num_groups: usize,
    ) -> Result<Self, DeviceError> {
        let num_tokens = config.max_num_batched_tokens as usize;
        let num_seqs = config.max_num_seqs as usize;
        let of_tokens = || Vec::with_capacity(num_tokens);
        let blocks_per_seq = config.max_model_len.div_ceil(config.block_size) as usize;
        let of_states = StateSegment::NUM_NUMBERS * num_tokens + num_seqs + 1;
        // No more rows are sampled from than a step has tokens.
        let num_sampled = num_tokens.min(num_seqs * MAX_TOKENS_PER_STEP);
        let capacity = (3 + num_groups) * num_tokens + 3 * num_seqs + num_sampled + 1 + of_states;
        Ok(Self {
            token_ids: of_tokens(),
            positions: of_tokens(),
            slot_mappings: (0..num_groups).map(|_| of_tokens()).collect(),
            query_start_loc: Vec::with_capacity(num_seqs + 1),
            context_lens: Vec::with_capacity(num_seqs),
            rows: Vec::with_capacity(num_seqs),
            output_rows: of_tokens(),
            sample_rows: Vec::with_capacity(num_sampled),
            output_start_loc: Vec::with_capacity(num_seqs + 1),
            state_segments: Vec::with_capacity(num_seqs + num_sampled),
            state_start_loc: Vec::with_capacity(num_seqs + 1),
            block_size: config.block_size,
            arrays: StepArrays::new(device, capacity, num_groups, num_seqs * blocks_per_seq)?,
        })
    }

    /// Whether the device has block tables of its own, which follow the changes of the host's.
    pub fn follows_changes(&self) -> bool {
        self.arrays.is_uploaded()
    }

    /// Fills the arrays from the rows' present tokens and blocks, and takes them to the device.
    pub fn gather<'a>(
        &'a mut self,
        device: &Device,
        output: &SchedulerOutput,
        table: &'a SequenceTable,
    ) -> StepInput<'a> {
        self.clear();
        for sequence in &output.sequences {
            let (start, end) = (sequence.start, sequence.start + sequence.num_tokens);
            let row = table.row(sequence.row);
            let tokens = &row.tokens[start as usize..end as usize];
            self.token_ids.extend_from_slice(tokens);
            self.positions.extend(start..end);
            for (group, slot_mapping) in self.slot_mappings.iter_mut().enumerate() {
                let blocks = table.blocks(sequence.row, group);
                slot_mapping.extend((start..end).map(|position| {
                    let block = blocks[(position / self.block_size) as usize];
                    block * self.block_size + position % self.block_size
                }));
            }
            self.gather_states(output.state_segments_of(sequence));
            self.query_start_loc.push(self.token_ids.len() as u32);
            self.context_lens.push(end);
            self.rows.push(sequence.row.0);
            let end_row = self.token_ids.len() as u32;
            let num_sample_rows = if sequence.samples { 1 + sequence.num_drafts } else { 0 };
            let num_output_rows = match row.sampling.params.prompt_logprobs {
                Some(_) => sequence.num_tokens,
                None => num_sample_rows,
            };
            self.output_rows.extend(end_row - num_output_rows..end_row);
            let num_rows = self.output_rows.len() as u32;
            self.sample_rows.extend(num_rows - num_sample_rows..num_rows);
            self.output_start_loc.push(self.output_rows.len() as u32);
        }
        self.upload(device, table);
        self.input(table)
    }

    fn upload(&mut self, device: &Device, table: &SequenceTable) {
        if !self.arrays.is_uploaded() {
            return;
        }
        let arrays: [&[u32]; SLOT_MAPPINGS] = [
            &self.token_ids,
            &self.positions,
            &self.query_start_loc,
            &self.context_lens,
            &self.rows,
            &self.output_rows,
            &self.sample_rows,
            StateSegment::numbers(&self.state_segments),
            &self.state_start_loc,
        ];
        let slot_mappings = self.slot_mappings.iter().map(Vec::as_slice);
        let arrays: Vec<&[u32]> = arrays.into_iter().chain(slot_mappings).collect();
        self.arrays.upload(device, &arrays, table.changes());
    }

    fn input<'a>(&'a self, table: &'a SequenceTable) -> StepInput<'a> {
        let arrays = &self.arrays;
        let slots = self.slot_mappings.first().map_or(&[][..], Vec::as_slice);
        let tables = table.block_tables().first().map_or(&[][..], Vec::as_slice);
        StepInput {
            token_ids: arrays.array(TOKEN_IDS, &self.token_ids),
            positions: arrays.array(POSITIONS, &self.positions),
            slot_mapping: match self.slot_mappings.is_empty() {
                true => slots.into(),
                false => arrays.array(SLOT_MAPPINGS, slots),
            },
            query_start_loc: arrays.array(QUERY_START_LOC, &self.query_start_loc),
            context_lens: arrays.array(CONTEXT_LENS, &self.context_lens),
            rows: arrays.array(ROWS, &self.rows),
            output_rows: arrays.array(OUTPUT_ROWS, &self.output_rows),
            block_tables: match self.slot_mappings.is_empty() {
                true => tables.into(),
                false => arrays.table(0, tables),
            },
            max_blocks_per_seq: table.max_blocks_per_seq(),
            groups: GroupInputs {
                slot_mappings: &self.slot_mappings,
                block_tables: table.block_tables(),
                arrays: Some(arrays),
            },
            states: self.states(),
        }
    }

    fn states(&self) -> StateBatch<'_> {
        let numbers = StateSegment::numbers(&self.state_segments);
        let start_loc = self.arrays.array(STATE_START_LOC, &self.state_start_loc);
        StateBatch::new(&self.state_segments, start_loc)
            .with_numbers(self.arrays.array(STATE_SEGMENTS, numbers))
    }

    /// Rows of the last layer's output that tokens are sampled from, in the step gathered last.
    pub fn sample_rows(&self) -> Indices<'_> {
        self.arrays.array(SAMPLE_ROWS, &self.sample_rows)
    }

    /// The segments of one sequence, before its end is in `query_start_loc`. All are of one cache group.
    fn gather_states(&mut self, segments: &[Segment]) {
        let mut first_row = *self.query_start_loc.last().expect("it begins with 0");
        for segment in segments {
            self.state_segments.push(StateSegment {
                first_row,
                num_rows: segment.num_tokens,
                from: segment.from.map_or(NO_STATE, |block| block.0),
                to: segment.to.0,
            });
            first_row += segment.num_tokens;
        }
        self.state_start_loc.push(self.state_segments.len() as u32);
    }

    /// Where each sequence's rows begin among the output rows of the step gathered last: `[s + 1]`.
    pub fn output_start_loc(&self) -> &[u32] {
        &self.output_start_loc
    }

    fn clear(&mut self) {
        for array in [
            &mut self.token_ids,
            &mut self.positions,
            &mut self.query_start_loc,
            &mut self.context_lens,
            &mut self.rows,
            &mut self.output_rows,
            &mut self.sample_rows,
            &mut self.output_start_loc,
        ] {
            array.clear();
        }
        self.slot_mappings.iter_mut().for_each(Vec::clear);
        self.state_segments.clear();
        self.state_start_loc.clear();
        self.state_start_loc.push(0);
        self.query_start_loc.push(0);
        self.output_start_loc.push(0);
    }
}
