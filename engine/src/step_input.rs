//! From rows to the flat arrays of a step: token ids, positions, slots, and where each sequence lies in them.

use quire_kernels::AttentionBatch;
use quire_scheduler::SchedulerOutput;

use crate::sequence_table::SequenceTable;

/// The arrays, kept from step to step so that none is allocated anew.
pub struct StepBuffers {
    token_ids: Vec<u32>,
    positions: Vec<u32>,
    slot_mappings: Vec<Vec<u32>>,
    query_start_loc: Vec<u32>,
    context_lens: Vec<u32>,
    rows: Vec<u32>,
    output_rows: Vec<u32>,
    output_start_loc: Vec<u32>,
    block_size: u32,
}

/// One step's input; n = its tokens, s = its sequences, m = the rows that logits are computed from. Slots and block
/// tables are those of one cache group.
#[derive(Clone, Copy)]
pub struct StepInput<'a> {
    pub token_ids: &'a [u32],       // [n]
    pub positions: &'a [u32],       // [n]
    pub slot_mapping: &'a [u32],    // [n]: block · block_size + offset
    pub query_start_loc: &'a [u32], // [s + 1]
    pub context_lens: &'a [u32],    // [s]: positions after this step
    pub rows: &'a [u32],            // [s]: rows of `block_tables`
    pub output_rows: &'a [u32],     // [m]: rows of the n that logits need, ascending
    pub block_tables: &'a [u32],    // [max_num_seqs, max_blocks_per_seq]
    pub max_blocks_per_seq: usize,
    pub groups: GroupInputs<'a>,
}

/// What differs from cache group to cache group.
#[derive(Clone, Copy, Default)]
pub struct GroupInputs<'a> {
    pub slot_mappings: &'a [Vec<u32>],
    pub block_tables: &'a [Vec<u32>],
}

impl StepInput<'_> {
    pub fn num_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// As seen by the layers of that cache group.
    #[must_use]
    pub fn of_group(&self, group: usize) -> Self {
        let (slots, tables) = (self.groups.slot_mappings, self.groups.block_tables);
        Self { slot_mapping: &slots[group], block_tables: &tables[group], ..*self }
    }

    /// What the attention op wants to know.
    pub fn batch(&self) -> AttentionBatch<'_> {
        AttentionBatch {
            query_start_loc: self.query_start_loc.into(),
            context_lens: self.context_lens.into(),
            block_tables: self.block_tables.into(),
            rows: self.rows.into(),
            max_blocks_per_seq: self.max_blocks_per_seq,
        }
    }
}

impl StepBuffers {
    pub fn new(
        max_num_batched_tokens: usize,
        max_num_seqs: usize,
        block_size: u32,
        num_groups: usize,
    ) -> Self {
        let slot_mapping = || Vec::with_capacity(max_num_batched_tokens);
        Self {
            token_ids: Vec::with_capacity(max_num_batched_tokens),
            positions: Vec::with_capacity(max_num_batched_tokens),
            slot_mappings: (0..num_groups).map(|_| slot_mapping()).collect(),
            query_start_loc: Vec::with_capacity(max_num_seqs + 1),
            context_lens: Vec::with_capacity(max_num_seqs),
            rows: Vec::with_capacity(max_num_seqs),
            output_rows: Vec::with_capacity(max_num_batched_tokens),
            output_start_loc: Vec::with_capacity(max_num_seqs + 1),
            block_size,
        }
    }

    /// Fills the arrays from the rows' present tokens and blocks.
    pub fn gather<'a>(
        &'a mut self,
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
            self.query_start_loc.push(self.token_ids.len() as u32);
            self.context_lens.push(end);
            self.rows.push(sequence.row.0);
            let end_row = self.token_ids.len() as u32;
            let num_output_rows = match row.sampling.params.prompt_logprobs {
                Some(_) => sequence.num_tokens,
                None => u32::from(sequence.samples),
            };
            self.output_rows.extend(end_row - num_output_rows..end_row);
            self.output_start_loc.push(self.output_rows.len() as u32);
        }
        StepInput {
            token_ids: &self.token_ids,
            positions: &self.positions,
            slot_mapping: self.slot_mappings.first().map_or(&[], Vec::as_slice),
            query_start_loc: &self.query_start_loc,
            context_lens: &self.context_lens,
            rows: &self.rows,
            output_rows: &self.output_rows,
            block_tables: table.block_tables().first().map_or(&[], Vec::as_slice),
            max_blocks_per_seq: table.max_blocks_per_seq(),
            groups: GroupInputs {
                slot_mappings: &self.slot_mappings,
                block_tables: table.block_tables(),
            },
        }
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
            &mut self.output_start_loc,
        ] {
            array.clear();
        }
        self.slot_mappings.iter_mut().for_each(Vec::clear);
        self.query_start_loc.push(0);
        self.output_start_loc.push(0);
    }
}
