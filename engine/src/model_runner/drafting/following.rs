//! A head follows its model: it computes every row whose next token is known.
//!
//! Steps that only decode are caught up with together, when drafts are asked for or a block is full: then others may find its
//! keys in the prefix cache. So while no drafts are wanted, a head costs next to nothing.

use quire_kernels::{Device, View, copy_rows, gather_rows};
use quire_scheduler::{Row, SchedulerOutput, SequenceId, TokenId};

use super::{Drafting, Features, KvCache, Path, Ready, SequenceTable, StepBuffers, Vocabulary};

/// Rows that may lie behind, at most.
const MOST_BEHIND: usize = 256;

/// What the head has seen of the model and not computed yet.
pub(super) struct Following {
    /// Layers whose inputs were seen in this step.
    num_seen: usize,
    /// Rows of features before those of this step, and rows of this step.
    num_rows: (usize, usize),
    behind: Vec<Behind>,
    most_behind: usize,
}

/// A position that the head has not computed.
struct Behind {
    id: SequenceId,
    row: Row,
    admission: u64,
    position: u32,
    /// The token after it.
    token: TokenId,
    /// Where its features are.
    features: u32,
}

impl Following {
    pub(super) fn new(max_num_batched_tokens: usize) -> Self {
        Self {
            num_seen: 0,
            num_rows: (0, 0),
            behind: Vec::with_capacity(max_num_batched_tokens),
            most_behind: MOST_BEHIND.min(max_num_batched_tokens),
        }
    }
}

impl Drafting {
    /// A step begins.
    pub fn begin(
        &mut self,
        at: (&Device, &Vocabulary),
        kv: &mut KvCache,
        (output, table): (&SchedulerOutput, &SequenceTable),
    ) {
        let num_rows = output.num_tokens() as usize;
        let num_before = self.following.num_rows.0;
        if !only_decodes(output) || num_before + num_rows > self.following.most_behind {
            self.catch_up(at, kv, table);
        }
        self.following.num_seen = 0;
        self.following.num_rows.1 = num_rows;
    }

    /// What the next layer is given, or in the end what the last norm leaves; `[n, hidden_size]`.
    pub fn observe(&mut self, device: &Device, num_layers: usize, rows: View) {
        let (index, columns) = (self.following.num_seen, rows.cols());
        self.following.num_seen += 1;
        let places = match &self.head.spec().features {
            Features::Inputs(layers) => layers.as_slice(),
            Features::Last => &[num_layers],
        };
        let first = self.following.num_rows.0;
        for (place, _) in places.iter().enumerate().filter(|(_, layer)| **layer == index) {
            let features = self.workspace.features.view_mut();
            let features = features.row_range(first..first + rows.rows());
            copy_rows(device, features.columns(place * columns..(place + 1) * columns), rows);
        }
    }

    /// Nobody goes on.
    pub fn forget(&mut self) {
        self.ready.clear();
        self.following.behind.clear();
        self.following.num_rows = (0, 0);
    }

    /// After a step and its samples.
    pub fn follow(
        &mut self,
        at: (&Device, &Vocabulary),
        kv: &mut KvCache,
        (output, buffers, table): (&SchedulerOutput, &StepBuffers, &SequenceTable),
        paths: &[Path],
    ) {
        let following = &mut self.following;
        let mut fills_block = false;
        let starts = buffers.query_start_loc();
        for ((sequence, &first), path) in output.sequences.iter().zip(starts).zip(paths) {
            let first_draft = sequence.start + sequence.num_tokens - sequence.num_drafts;
            let owner = table.row(sequence.row);
            let end = (sequence.start + sequence.num_tokens).min(owner.tokens.len() as u32 - 1);
            for position in sequence.start..end {
                let place = match position.checked_sub(first_draft) {
                    Some(index) => first_draft + path.draft(index as usize),
                    None => position,
                };
                let features = following.num_rows.0 as u32 + first + place - sequence.start;
                fills_block |= (position as usize + 1).is_multiple_of(self.block_size);
                following.behind.push(Behind {
                    id: sequence.id,
                    row: sequence.row,
                    admission: owner.admission,
                    position,
                    token: owner.tokens[position as usize + 1],
                    features,
                });
            }
        }
        following.num_rows = (following.num_rows.0 + following.num_rows.1, 0);
        if fills_block || !only_decodes(output) {
            self.catch_up(at, kv, table);
        }
    }

    /// The head computes what lies behind, of sequences that are still there.
    pub(super) fn catch_up(
        &mut self,
        at: (&Device, &Vocabulary),
        kv: &mut KvCache,
        table: &SequenceTable,
    ) {
        let Following { behind, num_rows, .. } = &mut self.following;
        *num_rows = (0, 0);
        behind.retain(|own| table.is_owned(own.row, own.admission));
        if behind.is_empty() {
            return;
        }
        behind.sort_by_key(|own| (own.row.0, own.position));
        self.rows.clear();
        self.ready.clear();
        let (mut kept, mut last_rows) = (Vec::with_capacity(behind.len()), Vec::new());
        for of_row in behind.chunk_by(|a, b| a.row == b.row) {
            let (row, id, last) = (of_row[0].row, of_row[0].id, of_row[of_row.len() - 1].position);
            let blocks = table.blocks(row, self.group);
            for own in of_row {
                self.rows.push(own.token, own.position as usize, blocks, self.block_size);
                kept.push(own.features);
            }
            self.rows.end_sequence(last + 1, row.0);
            let num_tokens = table.row(row).tokens.len();
            if last as usize + 2 == num_tokens {
                self.ready.push(Ready { id, row, num_tokens });
                last_rows.push(kept.len() as u32 - 1);
            }
        }
        behind.clear();
        let tables = &table.block_tables()[self.group];
        let step = self.rows.input(tables, table.max_blocks_per_seq());
        self.head.follow(at, &mut self.workspace, (kv, self.layer), (&step, &kept));
        let states = self.states.first_rows_mut(last_rows.len());
        gather_rows(at.0, states, self.workspace.layer.residual.view(), (&last_rows[..]).into());
    }
}

/// Whether each sequence computes one token.
fn only_decodes(output: &SchedulerOutput) -> bool {
    output.sequences.iter().all(|sequence| sequence.num_tokens == 1)
}
