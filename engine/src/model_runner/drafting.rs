//! Guessing with a head of the model, an EAGLE head or a DFlash drafter: it follows each step of its model, and goes on alone from there when it is asked.
//!
//! The head's keys and values are one more layer of the cache: the scheduler's blocks, cached prefixes and preemptions are
//! theirs too. Of a cached prefix that other tokens follow, the key of its last position knows the token that followed
//! there first: it is right but for that, and drafts never change an answer. What the head writes while it guesses goes
//! to blocks that no scheduler knows of, which begin with a copy of the sequence's last one.

use std::cmp::Reverse;

use quire_kernels::{
    DType, Device, DeviceError, SampleRow, Sampled, StateBatch, Tensor, copy_blocks, copy_rows,
    gather_rows, sample,
};
use quire_scheduler::{Row, SequenceId};

use crate::branches::BranchRows;
use crate::config::{EngineConfig, MAX_DRAFTS};
use crate::kv_cache::KvCache;
use crate::models::draft_head::HeadWorkspace;
use crate::models::head_spec::BlockSpec;
use crate::models::{DraftHead, Features, HeadSpec, Vocabulary};
use crate::sampler::Path;
use crate::sequence_table::SequenceTable;
use crate::speculative::{Ask, Guess};
use crate::step_input::{GroupInputs, StepBuffers, StepInput};
use crate::workspace::{MAX_LOGITS_ROWS, Workspace};

mod following;
mod tree;

use following::Following;

/// A head with its memory.
pub struct Drafting {
    head: DraftHead,
    /// The head's first layer of the cache.
    layer: usize,
    group: usize,
    block_size: usize,
    workspace: HeadWorkspace,
    following: Following,
    /// Who was followed last and may go on.
    ready: Vec<Ready>,
    /// `[max_num_seqs, hidden_size]` F32: from which state each of them does.
    states: Tensor,
    rows: Rows,
    sampled: Vec<Sampled>,
    /// The head's first own block.
    first_block: usize,
    tables: Vec<u32>,
    /// Entries of a row of `tables`.
    table_len: usize,
    max_model_len: usize,
    size: DraftingSize,
    /// Above 1: drafts are trees, grown from so many nodes at once.
    topk: usize,
    /// Who gets drafts now.
    asked_for: Vec<DraftingRow>,
}

/// How much is drafted at once.
#[derive(Clone, Copy)]
pub struct DraftingSize {
    pub num_seqs: usize,
    /// Rows that logits are computed from: more than sequences where several nodes of a tree are followed.
    pub num_rows: usize,
    /// Of a sequence's drafts, with the block that they begin in.
    blocks_per_seq: usize,
}

impl DraftingSize {
    /// `topk`: nodes of a tree that are followed at once.
    pub fn new(
        head: &HeadSpec,
        (max_num_seqs, max_num_batched_tokens): (usize, usize),
        topk: usize,
        block_size: usize,
    ) -> Self {
        let tokens_per_seq = head.block.map_or(topk, |block| block.size);
        let most = (max_num_batched_tokens / tokens_per_seq).min(MAX_LOGITS_ROWS / topk);
        let num_seqs = max_num_seqs.min(most).max(1);
        let num_drafts = head.block.map_or(0, |block| block.size).max(topk * MAX_DRAFTS as usize);
        let blocks_per_seq = (block_size + num_drafts).div_ceil(block_size);
        Self { num_seqs, num_rows: num_seqs * topk, blocks_per_seq }
    }

    /// The head's own blocks.
    pub fn num_blocks(self) -> usize {
        self.num_seqs * self.blocks_per_seq
    }
}

/// A sequence that the head has followed to its last token but one.
#[derive(Clone, Copy)]
struct Ready {
    id: SequenceId,
    row: Row,
    num_tokens: usize,
}

/// A sequence that gets drafts.
#[derive(Clone, Copy)]
struct DraftingRow {
    /// Index of the ask.
    ask: usize,
    row: Row,
    /// Row of `Drafting::states`.
    state: u32,
    most: usize,
    num_tokens: usize,
}

impl Drafting {
    pub fn new(
        device: &Device,
        head: DraftHead,
        (num_layers, kv): (usize, &mut KvCache),
        config: &EngineConfig,
    ) -> Result<Self, DeviceError> {
        let spec = head.spec();
        let (num_seqs, block_size) = (config.max_num_seqs as usize, config.block_size as usize);
        let layer = num_layers;
        let first_block = kv.layer_mut(layer).num_blocks();
        let max_tokens = config.max_num_batched_tokens as usize;
        let topk = config.speculative.as_ref().map_or(1, |own| own.eagle_topk as usize);
        let size = DraftingSize::new(spec, (num_seqs, max_tokens), topk, block_size);
        for layer in layer..layer + spec.decoder.num_layers() {
            kv.add_blocks(device, layer, size.num_blocks())?;
        }
        let workspace = HeadWorkspace::new(device, spec, max_tokens, size.num_rows)?;
        // Nodes of a tree have a place each, also near the end of the context.
        let max_blocks_per_seq = (config.max_model_len as usize).div_ceil(block_size);
        let table_len = max_blocks_per_seq + if topk > 1 { size.blocks_per_seq } else { 0 };
        Ok(Self {
            layer,
            group: kv.group(layer),
            block_size,
            workspace,
            following: Following::new(max_tokens),
            ready: Vec::with_capacity(num_seqs),
            states: device.allocate(DType::F32, num_seqs, spec.decoder.hidden_size)?,
            rows: Rows::default(),
            sampled: vec![Sampled::default(); size.num_rows],
            first_block,
            tables: vec![0; size.num_seqs * table_len],
            table_len,
            max_model_len: config.max_model_len as usize,
            size,
            topk,
            asked_for: Vec::with_capacity(size.num_seqs),
            head,
        })
    }

    /// Drafts for each ask whose sequence was followed to its end, likeliest tokens one after the other.
    pub fn draft(
        &mut self,
        at: (&Device, &Vocabulary),
        kv: &mut KvCache,
        table: &SequenceTable,
        (asks, guesses): (&[Ask], &mut [Guess]),
    ) {
        self.catch_up(at, kv, table);
        let mut asked = 0;
        while asked < asks.len() {
            self.asked_for.clear();
            while asked < asks.len() && self.asked_for.len() < self.size.num_seqs {
                let ask = &asks[asked];
                let is_ready =
                    |r: &Ready| r.id == ask.id && r.num_tokens == ask.tokens.len() && ask.most > 0;
                if let Some(state) = self.ready.iter().position(is_ready) {
                    self.asked_for.push(DraftingRow {
                        ask: asked,
                        row: self.ready[state].row,
                        state: state as u32,
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
        at: (&Device, &Vocabulary),
        kv: &mut KvCache,
        table: &SequenceTable,
        guesses: &mut [Guess],
    ) {
        self.enter_tables(at.0, kv, table);
        match self.head.spec().block {
            Some(block) => self.draft_block(at, kv, table, (block, guesses)),
            None if self.topk > 1 => self.draft_tree(at, kv, guesses),
            None => self.draft_chain(at, kv, guesses),
        }
    }

    /// All drafts in one pass.
    fn draft_block(
        &mut self,
        at: (&Device, &Vocabulary),
        kv: &mut KvCache,
        table: &SequenceTable,
        (block, guesses): (BlockSpec, &mut [Guess]),
    ) {
        self.rows.clear();
        let mut wanted = Vec::new();
        for (index, drafting) in self.asked_for.iter().enumerate() {
            let first = index * self.table_len;
            let blocks = &self.tables[first..first + self.table_len];
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
        let step = self.rows.input(&self.tables, self.table_len);
        if let DraftHead::Block(head) = &self.head {
            head.forward(at, &mut self.workspace, (kv, self.layer), &step);
        }
        for wanted in wanted.chunks(self.sampled.len()) {
            let rows: Vec<u32> = wanted.iter().map(|(_, row)| *row).collect();
            let Workspace { hidden, gathered, .. } = &mut self.workspace.layer;
            let gathered = gathered.first_rows_mut(rows.len());
            gather_rows(at.0, gathered, hidden.view(), (&rows[..]).into());
            if !self.guess(at, wanted.iter().map(|(ask, _)| *ask), guesses) {
                return;
            }
        }
    }

    /// One draft after the other.
    fn draft_chain(&mut self, at: (&Device, &Vocabulary), kv: &mut KvCache, guesses: &mut [Guess]) {
        let rows: Vec<u32> = self.asked_for.iter().map(|drafting| drafting.state).collect();
        let residual = self.workspace.layer.residual.first_rows_mut(rows.len());
        gather_rows(at.0, residual, self.states.view(), (&rows[..]).into());
        for depth in 0..self.asked_for.first().map_or(0, |drafting| drafting.most) {
            let wanting = |more: usize| move |row: &&DraftingRow| row.most > depth + more;
            let n = self.asked_for.iter().take_while(wanting(0)).count();
            let asks: Vec<usize> = self.asked_for[..n].iter().map(|row| row.ask).collect();
            let HeadWorkspace { states, layer, .. } = &mut self.workspace;
            copy_rows(at.0, states.first_rows_mut(n), layer.residual.first_rows(n));
            if !self.guess(at, asks.iter().copied(), guesses) {
                return;
            }
            let n = self.asked_for.iter().take_while(wanting(1)).count();
            if n == 0 {
                return;
            }
            self.rows.clear();
            for (index, drafting) in self.asked_for[..n].iter().enumerate() {
                let first = index * self.table_len;
                let blocks = &self.tables[first..first + self.table_len];
                let position = drafting.num_tokens - 1 + depth;
                let token = guesses[drafting.ask].drafts[depth];
                self.rows.push(token, position, blocks, self.block_size);
                self.rows.end_sequence(position as u32 + 1, index as u32);
            }
            let step = self.rows.input(&self.tables, self.table_len);
            if let DraftHead::Eagle(head) = &self.head {
                head.forward(at, &mut self.workspace, kv.layer_mut(self.layer), &step);
            }
        }
    }

    /// One more draft for each of those asks, whose rows come first; `false`: the head's numbers are none.
    fn guess(
        &mut self,
        at: (&Device, &Vocabulary),
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
        let size = self.size.blocks_per_seq;
        let layers = self.layer..self.layer + self.head.spec().decoder.num_layers();
        for (index, drafting) in self.asked_for.iter().enumerate() {
            let own = self.first_block + index * size;
            let (start, most) = (drafting.num_tokens - 1, self.table_len);
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
    branches: BranchRows,
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
        self.branches.begin(false);
    }

    fn push(&mut self, token: u32, position: usize, blocks: &[u32], block_size: usize) {
        self.positions.push(position as u32);
        self.push_at(token, position, blocks, block_size);
    }

    /// A node of a tree: `path` has the places of its ancestors after `first`, the place of their first, and its own.
    fn push_node(
        &mut self,
        token: u32,
        (first, path): (usize, &[u32]),
        blocks: &[u32],
        block_size: usize,
    ) {
        self.positions.push((first + path.len() - 1) as u32);
        self.branches.push(path);
        let place = *path.last().expect("a node has a place");
        self.push_at(token, place as usize, blocks, block_size);
    }

    fn push_at(&mut self, token: u32, position: usize, blocks: &[u32], block_size: usize) {
        self.token_ids.push(token);
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
            branches: self.branches.of(&self.positions),
            groups: GroupInputs::default(),
            states: StateBatch::new(&[], &[0]),
        }
    }
}
