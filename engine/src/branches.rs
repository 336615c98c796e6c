//! Rows of a step that do not follow one another: drafts that are a tree. Each has a slot of its own, and sees its ancestors'.

use quire_kernels::Branches;
use quire_scheduler::draft_tree::is_chain;

/// What `Branches` is made of, but for the positions.
#[derive(Default)]
pub struct BranchRows {
    /// Some rows branch, so that each has an entry.
    is_used: bool,
    start_loc: Vec<u32>,
    places: Vec<u32>,
}

impl BranchRows {
    /// Starts anew, for a step in which some rows branch or none does.
    pub fn begin(&mut self, is_used: bool) {
        self.is_used = is_used;
        self.start_loc.clear();
        self.places.clear();
        self.start_loc.push(0);
    }

    /// The next row, which sees these places last, the last one its own.
    pub fn push(&mut self, places: &[u32]) {
        self.places.extend_from_slice(places);
        self.start_loc.push(self.places.len() as u32);
    }

    /// The next rows: `num_tokens` of a sequence from position `start` on, the last of which are drafts that follow
    /// `parents`. Appends the position of each.
    pub fn push_sequence(
        &mut self,
        (start, num_tokens): (u32, u32),
        parents: &[u8],
        positions: &mut Vec<u32>,
    ) {
        if is_chain(parents) {
            positions.extend(start..start + num_tokens);
            if self.is_used {
                let end = self.start_loc.len() + num_tokens as usize;
                self.start_loc.resize(end, self.places.len() as u32);
            }
            return;
        }
        let first_draft = start + num_tokens - parents.len() as u32;
        for position in start..first_draft {
            positions.push(position);
            self.push(&[position]);
        }
        let root = self.start_loc.len() - 2;
        for (place, &parent) in (first_draft..).zip(parents) {
            let row = root + usize::from(parent);
            let path = self.start_loc[row] as usize..self.start_loc[row + 1] as usize;
            positions.push(first_draft - 1 + path.len() as u32);
            self.places.extend_from_within(path);
            self.push(&[place]);
        }
    }

    /// For the attention of rows at these positions.
    pub fn of<'a>(&'a self, positions: &'a [u32]) -> Option<Branches<'a>> {
        let (start_loc, places) = (&self.start_loc[..], &self.places[..]);
        self.is_used.then_some(Branches { positions, start_loc, places })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_see_their_ancestors() {
        let (mut rows, mut positions) = (BranchRows::default(), Vec::new());
        rows.begin(true);
        rows.push_sequence((5, 3), &[0, 1], &mut positions);
        // Two known tokens; then drafts after the second of these, after it again, and after the second draft.
        rows.push_sequence((9, 5), &[0, 0, 2], &mut positions);
        assert_eq!(positions, [5, 6, 7, 9, 10, 11, 11, 12]);
        let branches = rows.of(&positions).expect("some rows branch");
        let of_row = |row: usize| {
            &branches.places[branches.start_loc[row] as usize..branches.start_loc[row + 1] as usize]
        };
        let none: &[u32] = &[];
        let expected = [none, none, none, &[9], &[10], &[10, 11], &[10, 12], &[10, 12, 13]];
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(of_row), expected);
        rows.begin(false);
        rows.push_sequence((5, 3), &[0, 1], &mut positions);
        assert!(rows.of(&positions).is_none());
    }
}
