//! From rows to the flat arrays of a step: token ids, positions, slots, and where each sequence lies in them.

use quire_kernels::{
    AttentionBatch, Branches, Device, DeviceError, Indices, NO_STATE, StateBatch, StateSegment,
    StepArrays, StepUpload, TakenToken, Tensor,
};
use quire_scheduler::{MAX_TOKENS_PER_STEP, SchedulerOutput, StateSegment as Segment};

use crate::branches::BranchRows;
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
    table_rows: Vec<u32>,
    num_output_tokens: Vec<u32>,
    taken: Vec<TakenToken>,
    branches: BranchRows,
    shape: Option<StepShape>,
    keeps_all_rows: bool,
    /// What is added to positions in the second text of a pair.
    second_text_row: u32,
    block_size: u32,
    arrays: StepArrays,
}

/// The sizes that a step is filled up to on a GPU, so that what was launched for one serves all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepShape {
    pub num_tokens: usize,
    /// Of these each may sample.
    pub num_seqs: usize,
    /// The most tokens of one sequence.
    pub max_queries: usize,
}

/// What is sampled in a step on a GPU; k = the sequences that get a token.
#[derive(Clone, Copy)]
pub struct SampleInput<'a> {
    pub rows: Indices<'a>,              // [k]: rows of the last layer's output
    pub table_rows: Indices<'a>,        // [k]: rows of the sequences; u32::MAX for none
    pub num_output_tokens: Indices<'a>, // [k]: before this one
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
    /// See `AttentionBatch`.
    pub replayed_with: Option<usize>,
    /// Of rows that do not follow one another.
    pub branches: Option<Branches<'a>>,
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
const TABLE_ROWS: usize = 9;
const NUM_OUTPUT_TOKENS: usize = 10;
const SLOT_MAPPINGS: usize = 11;

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
            replayed_with: self.replayed_with,
            branches: self.branches,
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
        let capacity = (3 + num_groups) * num_tokens + 7 * num_seqs + num_sampled + 1 + of_states;
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
            table_rows: Vec::with_capacity(num_seqs),
            num_output_tokens: Vec::with_capacity(num_seqs),
            taken: Vec::with_capacity(num_seqs),
            branches: BranchRows::default(),
            shape: None,
            keeps_all_rows: false,
            second_text_row: 0,
            state_segments: Vec::with_capacity(num_seqs + num_sampled),
            state_start_loc: Vec::with_capacity(num_seqs + 1),
            block_size: config.block_size,
            arrays: StepArrays::new(device, capacity, num_groups, num_seqs * blocks_per_seq)?,
        })
    }

    /// Has the second text of a pair read the rows from there on that are added to embeddings.
    pub fn set_second_text_row(&mut self, row: u32) {
        self.second_text_row = row;
    }

    /// Has the last layer leave every row of a step, whoever is sampled.
    pub fn keep_all_rows(&mut self, keeps_all_rows: bool) {
        self.keeps_all_rows = keeps_all_rows;
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
        self.fill(output, table);
        assert!(self.taken.is_empty(), "the host knows the tokens of a step");
        self.upload(device, table, None);
        self.input(table)
    }

    /// As `gather`, filled up to `shape`. Tokens that the rows lack are those that `sampled` (by row) has on the device.
    pub fn gather_ahead<'a>(
        &'a mut self,
        device: &Device,
        output: &SchedulerOutput,
        table: &'a SequenceTable,
        sampled: &Tensor,
        shape: Option<StepShape>,
    ) -> (StepInput<'a>, SampleInput<'a>) {
        self.fill(output, table);
        if let Some(shape) = shape {
            self.fill_up(shape);
        }
        self.upload(device, table, Some(sampled));
        (self.input(table), self.samples())
    }

    fn fill(&mut self, output: &SchedulerOutput, table: &SequenceTable) {
        self.clear();
        self.branches.begin(output.has_trees());
        for (sequence, _, parents) in output.with_drafts() {
            let (start, end) = (sequence.start, sequence.start + sequence.num_tokens);
            let row = table.row(sequence.row);
            let num_known = row.tokens.len().min(end as usize);
            self.token_ids.extend_from_slice(&row.tokens[start as usize..num_known]);
            for _ in num_known..end as usize {
                let index = self.token_ids.len() as u32;
                self.taken.push(TakenToken { index, row: sequence.row.0 });
                self.token_ids.push(0);
            }
            let tokens = (start, sequence.num_tokens);
            self.branches.push_sequence(tokens, parents, &mut self.positions);
            if let Some(second) = row.sampling.pooling.and_then(|pooling| pooling.second_text) {
                // Such texts are computed whole.
                let first_row = self.positions.len() - sequence.num_tokens as usize;
                for position in &mut self.positions[first_row + second as usize..] {
                    *position += self.second_text_row;
                }
            }
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
            let all = self.keeps_all_rows || row.sampling.params.prompt_logprobs.is_some();
            let num_output_rows = if all { sequence.num_tokens } else { num_sample_rows };
            self.output_rows.extend(end_row - num_output_rows..end_row);
            let num_rows = self.output_rows.len() as u32;
            let is_pooled = row.sampling.pooling.is_some();
            if !is_pooled {
                self.sample_rows.extend(num_rows - num_sample_rows..num_rows);
            }
            if sequence.samples && !is_pooled {
                self.table_rows.push(sequence.row.0);
                // Of the row: what a draft model's scheduler takes for the prompt has tokens of the output.
                let num_output_tokens = end - sequence.num_drafts - row.num_prompt_tokens as u32;
                self.num_output_tokens.push(num_output_tokens);
            }
            self.output_start_loc.push(self.output_rows.len() as u32);
        }
    }

    /// Adds tokens that belong to no sequence, sequences without tokens, and samples for nobody. All rows go through the
    /// last layer, whichever are sampled.
    fn fill_up(&mut self, shape: StepShape) {
        let (num_tokens, num_seqs) = (shape.num_tokens, shape.num_seqs);
        self.token_ids.resize(num_tokens, 0);
        self.positions.resize(num_tokens, 0);
        self.slot_mappings.iter_mut().for_each(|slots| slots.resize(num_tokens, u32::MAX));
        let num_queries = *self.query_start_loc.last().expect("it begins with 0");
        self.query_start_loc.resize(num_seqs + 1, num_queries);
        self.context_lens.resize(num_seqs, 0);
        self.rows.resize(num_seqs, 0);
        let num_segments = self.state_segments.len() as u32;
        self.state_start_loc.resize(num_seqs + 1, num_segments);
        if num_segments > 0 {
            // A sequence without drafts has two at most: one ends where its state is kept. Nobody reads those behind them.
            let most = num_tokens.min(2 * num_seqs);
            let unused = StateSegment { first_row: 0, num_rows: 0, from: NO_STATE, to: 0 };
            self.state_segments.resize(most, unused);
        }
        for row in &mut self.sample_rows {
            *row = self.output_rows[*row as usize];
        }
        self.output_rows.clear();
        self.output_rows.extend(0..num_tokens as u32);
        self.sample_rows.resize(num_seqs, 0);
        self.table_rows.resize(num_seqs, u32::MAX);
        self.num_output_tokens.resize(num_seqs, 0);
        self.shape = Some(shape);
    }

    fn upload(&mut self, device: &Device, table: &SequenceTable, sampled: Option<&Tensor>) {
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
            &self.table_rows,
            &self.num_output_tokens,
        ];
        let slot_mappings = self.slot_mappings.iter().map(Vec::as_slice);
        let arrays: Vec<&[u32]> = arrays.into_iter().chain(slot_mappings).collect();
        let (changes, taken) = (table.changes(), &self.taken);
        let upload = StepUpload { arrays: &arrays, changes, taken, sampled };
        self.arrays.upload(device, &upload);
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
            replayed_with: self.shape.map(|shape| shape.max_queries),
            branches: self.branches.of(&self.positions),
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
            .filled_up(self.shape.is_some())
    }

    /// Rows of the last layer's output that tokens are sampled from, in the step gathered last.
    pub fn sample_rows(&self) -> Indices<'_> {
        self.arrays.array(SAMPLE_ROWS, &self.sample_rows)
    }

    /// The same, with what the sampler on a GPU wants to know.
    pub fn samples(&self) -> SampleInput<'_> {
        let arrays = &self.arrays;
        SampleInput {
            rows: self.sample_rows(),
            table_rows: arrays.array(TABLE_ROWS, &self.table_rows),
            num_output_tokens: arrays.array(NUM_OUTPUT_TOKENS, &self.num_output_tokens),
        }
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

    /// Where each sequence's rows begin in the step gathered last: `[s + 1]`.
    pub fn query_start_loc(&self) -> &[u32] {
        &self.query_start_loc
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
            &mut self.table_rows,
            &mut self.num_output_tokens,
        ] {
            array.clear();
        }
        self.slot_mappings.iter_mut().for_each(Vec::clear);
        self.taken.clear();
        self.shape = None;
        self.state_segments.clear();
        self.state_start_loc.clear();
        self.state_start_loc.push(0);
        self.query_start_loc.push(0);
        self.output_start_loc.push(0);
    }
}
