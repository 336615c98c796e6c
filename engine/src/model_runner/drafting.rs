//! Guessing with a head of the model, an EAGLE head or a DFlash drafter: it follows each step of its model, and goes on alone from there when it is asked.
//!
//! The head's keys and values are one more layer of the cache: the scheduler's blocks, cached prefixes and preemptions are
//! theirs too. Of a cached prefix that other tokens follow, the key of its last position knows the token that followed
//! there first: it is right but for that, and drafts never change an answer. What the head writes while it guesses goes
//! to blocks that no scheduler knows of, which begin with a copy of the sequence's last one.

use std::cmp::Reverse;

use quire_kernels::{
    Device, DeviceError, SampleRow, Sampled, StateBatch, View, copy_blocks, gather_rows, sample,
};
use quire_scheduler::{Row, SchedulerOutput, SequenceId};

use crate::config::{EngineConfig, MAX_DRAFTS};
use crate::kv_cache::KvCache;
use crate::models::draft_head::HeadWorkspace;
use crate::models::head_spec::BlockSpec;
use crate::models::{Decoder, DraftHead, Features, HeadSpec};
use crate::sequence_table::SequenceTable;
use crate::speculative::{Ask, Guess};
use crate::step_input::{GroupInputs, StepBuffers, StepInput};
use crate::workspace::MAX_LOGITS_ROWS;

/// A head with its memory.
pub struct Drafting {
    head: DraftHead,
    /// The head's first layer of the cache.
    layer: usize,
    group: usize,
    block_size: usize,
    workspace: HeadWorkspace,
    /// Layers whose inputs were seen in this step.
    num_seen: usize,
    /// By row: who goes on from which state.
    ready: Vec<Option<Ready>>,
    /// `[max_num_seqs, hidden_size]`: the states.
    states: quire_kernels::Tensor,
    rows: Rows,
    sampled: Vec<Sampled>,
    /// The head's first own block.
    first_block: usize,
    tables: Vec<u32>,
    max_blocks_per_seq: usize,
    max_model_len: usize,
    /// Who gets drafts now.
    asked_for: Vec<DraftingRow>,
}

/// A row whose head has followed it to its last token but one.
#[derive(Clone, Copy)]
struct Ready {
    id: SequenceId,
    num_tokens: usize,
}

/// A sequence that gets drafts.
#[derive(Clone, Copy)]
struct DraftingRow {
    /// Index of the ask.
    ask: usize,
    row: Row,
    most: usize,
    num_tokens: usize,
}

impl Drafting {
    pub fn new(
        device: &Device,
        head: DraftHead,
        (model, kv): (&Decoder, &mut KvCache),
        config: &EngineConfig,
    ) -> Result<Self, DeviceError> {
        let spec = head.spec();
        let (num_seqs, block_size) = (config.max_num_seqs as usize, config.block_size as usize);
        let layer = model.spec().num_layers();
        let first_block = kv.layer_mut(layer).num_blocks();
        let max_tokens = config.max_num_batched_tokens as usize;
        let num_at_once = num_drafting(spec, num_seqs, max_tokens);
        for layer in layer..layer + spec.decoder.num_layers() {
            kv.add_blocks(device, layer, num_at_once * blocks_per_draft(spec, block_size))?;
        }
        let workspace = HeadWorkspace::new(device, spec, max_tokens, num_at_once)?;
        let max_blocks_per_seq = (config.max_model_len as usize).div_ceil(block_size);
        Ok(Self {
            layer,
            group: kv.group(layer),
            block_size,
            workspace,
            num_seen: 0,
            ready: vec![None; num_seqs],
            states: device.allocate(
                quire_kernels::DType::F32,
                num_seqs,
                spec.decoder.hidden_size,
            )?,
            rows: Rows::default(),
            sampled: vec![Sampled::default(); num_at_once],
            first_block,
            tables: vec![0; num_at_once * max_blocks_per_seq],
            max_blocks_per_seq,
            max_model_len: config.max_model_len as usize,
            asked_for: Vec::with_capacity(num_at_once),
            head,
        })
    }

    /// Bytes of the head's own blocks, for planning.
    pub fn scratch_bytes(
        head: &HeadSpec,
        bytes_per_token: u64,
        (max_num_seqs, max_num_batched_tokens): (u32, u32),
        block_size: u32,
    ) -> u64 {
        let rows = (max_num_seqs as usize, max_num_batched_tokens as usize);
        let blocks =
            num_drafting(head, rows.0, rows.1) * blocks_per_draft(head, block_size as usize);
        blocks as u64 * u64::from(block_size) * bytes_per_token
    }

    /// Whether the model's last norm must leave all rows of a step.
    pub fn wants_all_rows(&self) -> bool {
        self.head.spec().features == Features::Last
    }

    /// A step begins.
    pub fn begin(&mut self) {
        self.num_seen = 0;
    }

    /// What the next layer is given, or in the end what the last norm leaves; `[n, hidden_size]`.
    pub fn observe(&mut self, num_layers: usize, rows: View) {
        let (index, columns) = (self.num_seen, rows.cols());
        self.num_seen += 1;
        let places = match &self.head.spec().features {
            Features::Inputs(layers) => layers.as_slice(),
            Features::Last => &[num_layers],
        };
        for (place, _) in places.iter().enumerate().filter(|(_, layer)| **layer == index) {
            let features = self.workspace.features.first_rows_mut(rows.rows());
            let mut out = features.columns(place * columns..(place + 1) * columns);
            (0..rows.rows())
                .for_each(|row| out.row_f32_mut(row).copy_from_slice(rows.row_f32(row)));
        }
    }

    /// Nobody goes on.
    pub fn forget(&mut self) {
        self.ready.fill(None);
    }

    /// After a step and its samples: the head computes every row whose next token is known.
    pub fn follow(
        &mut self,
        at: (&Device, &Decoder),
        kv: &mut KvCache,
        (output, buffers, table): (&SchedulerOutput, &StepBuffers, &SequenceTable),
    ) {
        self.rows.clear();
        let starts = buffers.query_start_loc();
        let mut num_kept = 0;
        for (sequence, &first) in output.sequences.iter().zip(starts) {
            let tokens = &table.row(sequence.row).tokens;
            let end = (sequence.start + sequence.num_tokens).min(tokens.len() as u32 - 1);
            let blocks = table.blocks(sequence.row, self.group);
            for position in sequence.start..end {
                let token = tokens[position as usize + 1];
                self.rows.push(token, position as usize, blocks, self.block_size);
                self.keep_features(num_kept, (first + position - sequence.start) as usize);
                num_kept += 1;
            }
            self.ready[sequence.row.0 as usize] = None;
            if end > sequence.start {
                self.rows.end_sequence(end, sequence.row.0);
            }
        }
        if num_kept == 0 {
            return;
        }
        let tables = &table.block_tables()[self.group];
        let step = self.rows.input(tables, table.max_blocks_per_seq());
        self.head.follow(at, &mut self.workspace, (kv, self.layer), &step);
        self.keep_states(output, table);
    }

    /// The features of row `from` of the step move up to row `to`.
    fn keep_features(&mut self, to: usize, from: usize) {
        if to != from {
            let columns = self.workspace.features.cols();
            let features = self.workspace.features.f32_mut();
            features.copy_within(from * columns..(from + 1) * columns, to * columns);
        }
    }

    /// The states that rows go on from whose last token but one was computed.
    fn keep_states(&mut self, output: &SchedulerOutput, table: &SequenceTable) {
        let residual = &self.workspace.layer.residual;
        let mut states = self.states.view_mut();
        let followed = self.rows.query_start_loc.windows(2).zip(&self.rows.of_tables);
        let followed = followed.zip(&self.rows.context_lens);
        for ((ends, &row), &context_len) in followed {
            let tokens = &table.row(Row(row)).tokens;
            if context_len as usize + 1 != tokens.len() {
                continue;
            }
            let last = ends[1] as usize - 1;
            states.row_f32_mut(row as usize).copy_from_slice(residual.view().row_f32(last));
            let owner = output.sequences.iter().find(|sequence| sequence.row.0 == row);
            self.ready[row as usize] =
                owner.map(|owner| Ready { id: owner.id, num_tokens: tokens.len() });
        }
    }

    /// Drafts for each ask whose sequence was followed to its end, likeliest tokens one after the other.
    pub fn draft(
        &mut self,
        at: (&Device, &Decoder),
        kv: &mut KvCache,
        table: &SequenceTable,
        (asks, guesses): (&[Ask], &mut [Guess]),
    ) {
        let num_at_once = self.asked_for.capacity();
        let mut asked = 0;
        while asked < asks.len() {
            self.asked_for.clear();
            while asked < asks.len() && self.asked_for.len() < num_at_once {
                let ask = &asks[asked];
                let is_ready = |ready: &Option<Ready>| {
                    ready.is_some_and(|r| r.id == ask.id && r.num_tokens == ask.tokens.len())
                };
                if let Some(row) = self.ready.iter().position(is_ready).filter(|_| ask.most > 0) {
                    self.asked_for.push(DraftingRow {
                        ask: asked,
                        row: Row(row as u32),
                        most: ask.most,
                        num_tokens: ask.tokens.len(),
                    });
                }
                asked += 1;
            }
            // Those that want fewer drafts leave at the end.
            self.asked_for.sort_by_key(|row| Reverse(row.most));
            self.draft_together(at, kv, table, guesses);
        }
    }

    fn draft_together(
        &mut self,
        at: (&Device, &Decoder),
        kv: &mut KvCache,
        table: &SequenceTable,
        guesses: &mut [Guess],
    ) {
        self.enter_tables(at.0, kv, table);
        match self.head.spec().block {
            Some(block) => self.draft_block(at, kv, table, (block, guesses)),
            None => self.draft_chain(at, kv, guesses),
        }
    }

    /// All drafts in one pass.
    fn draft_block(
        &mut self,
        at: (&Device, &Decoder),
        kv: &mut KvCache,
        table: &SequenceTable,
        (block, guesses): (BlockSpec, &mut [Guess]),
    ) {
        self.rows.clear();
        let mut wanted = Vec::new();
        for (index, drafting) in self.asked_for.iter().enumerate() {
            let first = index * self.max_blocks_per_seq;
            let blocks = &self.tables[first..first + self.max_blocks_per_seq];
            let (start, known) = (drafting.num_tokens - 1, &table.row(drafting.row).tokens);
            // At the end of the context the block is shorter.
            let end = (start + block.size).min(self.max_model_len);
            for position in start..end {
                let token = if position == start { known[start] } else { block.mask_token };
                self.rows.push(token, position, blocks, self.block_size);
            }
            let row = self.rows.query_start_loc.last().copied().unwrap_or(0);
            let most = drafting.most.min(end - start - 1) as u32;
            wanted.extend((1..=most).map(|place| (drafting.ask, row + place)));
            self.rows.end_sequence(end as u32, index as u32);
        }
        let step = self.rows.input(&self.tables, self.max_blocks_per_seq);
        if let DraftHead::Block(head) = &self.head {
            head.forward(at, &mut self.workspace, (kv, self.layer), &step);
        }
        for wanted in wanted.chunks(self.sampled.len()) {
            let rows: Vec<u32> = wanted.iter().map(|(_, row)| *row).collect();
            let HeadWorkspace { states, layer, .. } = &mut self.workspace;
            let gathered = layer.gathered.first_rows_mut(rows.len());
            gather_rows(at.0, gathered, states.view(), (&rows[..]).into());
            if !self.guess(at, wanted.iter().map(|(ask, _)| *ask), guesses) {
                return;
            }
        }
    }

    /// One draft after the other.
    fn draft_chain(&mut self, at: (&Device, &Decoder), kv: &mut KvCache, guesses: &mut [Guess]) {
        let rows: Vec<u32> = self.asked_for.iter().map(|drafting| drafting.row.0).collect();
        let states = self.workspace.states.first_rows_mut(rows.len());
        gather_rows(at.0, states, self.states.view(), (&rows[..]).into());
        for depth in 0..self.asked_for.first().map_or(0, |drafting| drafting.most) {
            let wanting = |more: usize| move |row: &&DraftingRow| row.most > depth + more;
            let n = self.asked_for.iter().take_while(wanting(0)).count();
            let asks: Vec<usize> = self.asked_for[..n].iter().map(|row| row.ask).collect();
            if !self.guess(at, asks.iter().copied(), guesses) {
                return;
            }
            let n = self.asked_for.iter().take_while(wanting(1)).count();
            if n == 0 {
                return;
            }
            self.rows.clear();
            for (index, drafting) in self.asked_for[..n].iter().enumerate() {
                let first = index * self.max_blocks_per_seq;
                let blocks = &self.tables[first..first + self.max_blocks_per_seq];
                let position = drafting.num_tokens - 1 + depth;
                let token = guesses[drafting.ask].drafts[depth];
                self.rows.push(token, position, blocks, self.block_size);
                self.rows.end_sequence(position as u32 + 1, index as u32);
            }
            let step = self.rows.input(&self.tables, self.max_blocks_per_seq);
            if let DraftHead::Eagle(head) = &self.head {
                head.forward(at, &mut self.workspace, kv.layer_mut(self.layer), &step);
            }
            let HeadWorkspace { states, layer, .. } = &mut self.workspace;
            let columns = states.cols();
            states.f32_mut()[..n * columns].copy_from_slice(&layer.residual.f32()[..n * columns]);
        }
    }

    /// One more draft for each of those asks, whose rows come first; `false`: the head's numbers are none.
    fn guess(
        &mut self,
        at: (&Device, &Decoder),
        asks: impl ExactSizeIterator<Item = usize>,
        guesses: &mut [Guess],
    ) -> bool {
        let n = asks.len();
        self.head.logits(at, &mut self.workspace, n);
        let greedy = [SampleRow::default(); MAX_LOGITS_ROWS];
        let logits = self.workspace.layer.logits.first_rows_mut(n);
        sample(at.0, &mut self.sampled[..n], logits, &greedy[..n]);
        for (ask, sampled) in asks.zip(&self.sampled[..n]) {
            if !sampled.finite {
                return false;
            }
            guesses[ask].drafts.push(self.head.to_target(sampled.token));
        }
        true
    }

    /// A block table for each row that gets drafts: its own, up to the block where drafts begin.
    fn enter_tables(&mut self, device: &Device, kv: &mut KvCache, table: &SequenceTable) {
        let size = blocks_per_draft(self.head.spec(), self.block_size);
        let layers = self.layer..self.layer + self.head.spec().decoder.num_layers();
        for (index, drafting) in self.asked_for.iter().enumerate() {
            let own = self.first_block + index * size;
            let (start, most) = (drafting.num_tokens - 1, self.max_blocks_per_seq);
            let tables = &mut self.tables[index * most..(index + 1) * most];
            let blocks = table.blocks(drafting.row, self.group);
            let shared = start / self.block_size;
            tables[..shared].copy_from_slice(&blocks[..shared]);
            for (place, entry) in tables[shared..].iter_mut().take(size).enumerate() {
                *entry = (own + place) as u32;
            }
            if !start.is_multiple_of(self.block_size) {
                for layer in layers.clone() {
                    copy_blocks(device, kv.layer_mut(layer), &[(blocks[shared], own as u32)]);
                }
            }
        }
    }
}

/// Sequences that get drafts at once.
fn num_drafting(head: &HeadSpec, max_num_seqs: usize, max_num_batched_tokens: usize) -> usize {
    let most = max_num_batched_tokens / head.block.map_or(1, |block| block.size);
    max_num_seqs.min(most).clamp(1, MAX_LOGITS_ROWS)
}

/// Blocks that drafts of a sequence may reach into, with the one that they begin in.
fn blocks_per_draft(head: &HeadSpec, block_size: usize) -> usize {
    let most = head.block.map_or(0, |block| block.size).max(MAX_DRAFTS as usize);
    (block_size + most).div_ceil(block_size)
}

/// The arrays of one forward pass of the head; see `StepInput`.
#[derive(Default)]
struct Rows {
    token_ids: Vec<u32>,
    positions: Vec<u32>,
    slot_mapping: Vec<u32>,
    query_start_loc: Vec<u32>,
    context_lens: Vec<u32>,
    /// Of the block tables.
    of_tables: Vec<u32>,
}

impl Rows {
    fn clear(&mut self) {
        for array in [
            &mut self.token_ids,
            &mut self.positions,
            &mut self.slot_mapping,
            &mut self.query_start_loc,
            &mut self.context_lens,
            &mut self.of_tables,
        ] {
            array.clear();
        }
        self.query_start_loc.push(0);
    }

    fn push(&mut self, token: u32, position: usize, blocks: &[u32], block_size: usize) {
        self.token_ids.push(token);
        self.positions.push(position as u32);
        let slot = blocks[position / block_size] as usize * block_size + position % block_size;
        self.slot_mapping.push(slot as u32);
    }

    fn end_sequence(&mut self, context_len: u32, row: u32) {
        self.query_start_loc.push(self.token_ids.len() as u32);
        self.context_lens.push(context_len);
        self.of_tables.push(row);
    }

    fn input<'a>(&'a self, tables: &'a [u32], max_blocks_per_seq: usize) -> StepInput<'a> {
        StepInput {
            token_ids: (&self.token_ids[..]).into(),
            positions: (&self.positions[..]).into(),
            slot_mapping: (&self.slot_mapping[..]).into(),
            query_start_loc: (&self.query_start_loc[..]).into(),
            context_lens: (&self.context_lens[..]).into(),
            rows: (&self.of_tables[..]).into(),
            output_rows: (&[]).into(),
            block_tables: tables.into(),
            max_blocks_per_seq,
            replayed_with: None,
            groups: GroupInputs::default(),
            states: StateBatch::new(&[], &[0]),
        }
    }
}
