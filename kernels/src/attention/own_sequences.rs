//! A batch in which rows are sequences of their own: those that choose their positions, and those that branch.

use super::{AttentionBatch, Branches};

/// A batch in which rows are sequences of their own.
#[derive(Default)]
pub(super) struct OwnSequences {
    pub(super) query_start_loc: Vec<u32>,
    pub(super) context_lens: Vec<u32>,
    /// Of the block tables.
    pub(super) rows: Vec<u32>,
}

impl OwnSequences {
    fn clear(&mut self) {
        self.query_start_loc.clear();
        self.context_lens.clear();
        self.rows.clear();
    }

    /// Each row, as long as the positions that it chose.
    pub(super) fn choosing(&mut self, batch: &AttentionBatch, most: usize) {
        self.clear();
        for (sequence, &context_len) in batch.context_lens.iter().enumerate() {
            let num_queries = batch.num_queries(sequence) as u32;
            let lens = context_len - num_queries + 1..=context_len;
            self.context_lens.extend(lens.map(|len| len.min(most as u32)));
            self.rows.extend((0..num_queries).map(|_| batch.rows[sequence]));
        }
        self.query_start_loc.extend(0..=self.rows.len() as u32);
    }

    /// Each row that branches, as long as what it sees; the others stay together.
    pub(super) fn branching(&mut self, batch: &AttentionBatch, branches: &Branches) {
        self.clear();
        self.query_start_loc.push(0);
        for (sequence, &context_len) in batch.context_lens.iter().enumerate() {
            let rows = batch.rows_of(sequence);
            if branches.has(&rows) {
                self.context_lens.extend(branches.positions[rows.clone()].iter().map(|p| p + 1));
                self.query_start_loc.extend(rows.clone().map(|row| row as u32 + 1));
                self.rows.extend(rows.map(|_| batch.rows[sequence]));
            } else {
                self.context_lens.push(context_len);
                self.query_start_loc.push(rows.end as u32);
                self.rows.push(batch.rows[sequence]);
            }
        }
    }

    pub(super) fn batch<'a>(&'a self, of: &AttentionBatch<'a>) -> AttentionBatch<'a> {
        AttentionBatch {
            query_start_loc: (&self.query_start_loc).into(),
            context_lens: (&self.context_lens).into(),
            rows: (&self.rows).into(),
            branches: None,
            ..*of
        }
    }
}
