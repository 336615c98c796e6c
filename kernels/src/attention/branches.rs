//! Rows of a sequence that do not follow one another: drafts that are a tree, of which each row sees its own ancestors.

use std::ops::Range;

use super::AttentionBatch;

/// The last positions that each row sees, its own included, where they lie elsewhere than at their own place. A row at
/// position p with n `places` sees the positions before p + 1 − n at their own places, and those from there on at these:
/// what a sequence holds that has no other rows than the row and its ancestors. So its result has the same bits.
///
/// Either all rows of a sequence have places, or none: it is as without branches then.
#[derive(Clone, Copy, Debug)]
pub struct Branches<'a> {
    /// `[rows]`; of rows without places any.
    pub positions: &'a [u32],
    /// `[rows + 1]`: where the places of each row begin.
    pub start_loc: &'a [u32],
    /// Below the context length of the row's sequence.
    pub places: &'a [u32],
}

impl<'a> Branches<'a> {
    /// Where the positions of a row lie from the first one on that is not at its own place.
    pub(super) fn of_row(&self, row: usize) -> (usize, &'a [u32]) {
        let places = &self.places[self.start_loc[row] as usize..self.start_loc[row + 1] as usize];
        (self.positions[row] as usize + 1 - places.len(), places)
    }

    /// Whether these rows of a sequence have places.
    pub(super) fn has(&self, rows: &Range<usize>) -> bool {
        self.start_loc[rows.start] < self.start_loc[rows.end]
    }

    /// The first position of rows that have places.
    pub(super) fn first_position(&self, rows: Range<usize>) -> Option<usize> {
        let positions = self.has(&rows).then(|| self.positions[rows].iter().min());
        positions.flatten().map(|&position| position as usize)
    }

    pub(super) fn check(&self, batch: &AttentionBatch) {
        let num_seqs = batch.context_lens.len();
        let num_rows = batch.query_start_loc[num_seqs] as usize;
        assert_eq!(self.positions.len(), num_rows, "positions of branches");
        assert_eq!(self.start_loc.len(), num_rows + 1, "start_loc of branches");
        for sequence in 0..num_seqs {
            let rows = batch.rows_of(sequence);
            if !self.has(&rows) {
                continue;
            }
            let context_len = batch.context_lens[sequence];
            for row in rows {
                let num_places = self.start_loc[row + 1] - self.start_loc[row];
                let position = self.positions[row];
                assert!((1..=position + 1).contains(&num_places), "{num_places} places of a row");
                assert!(position < context_len, "a row behind its sequence");
                let is_inside = |&place: &u32| place < context_len;
                assert!(self.of_row(row).1.iter().all(is_inside), "a place behind its sequence");
            }
        }
    }
}
