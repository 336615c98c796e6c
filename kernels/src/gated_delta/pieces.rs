//! Sequences in pieces, for the cases of ops that carry states from step to step.

use std::ops::Range;

use crate::recurrent_layer::{NO_STATE, StateBatch, StateSegment};

/// For each sequence the rows that each step computes of it. A step has the next piece of every sequence that has one.
#[derive(Clone)]
pub(crate) struct Pieces {
    lengths: Vec<Vec<usize>>,
    steps: Vec<Step>,
}

/// One call of the op.
#[derive(Clone)]
pub(crate) struct Step {
    /// Of all rows, step after step.
    pub rows: Range<usize>,
    segments: Vec<StateSegment>,
    start_loc: Vec<u32>,
    /// Sequence of each row.
    sequences: Vec<usize>,
}

impl Step {
    pub(crate) fn batch(&self) -> StateBatch<'_> {
        StateBatch::new(&self.segments, &self.start_loc)
    }
}

impl Pieces {
    pub(crate) fn new(lengths: &[&[usize]]) -> Self {
        let lengths: Vec<Vec<usize>> = lengths.iter().map(|pieces| pieces.to_vec()).collect();
        let num_steps = lengths.iter().map(Vec::len).max().unwrap_or(0);
        let mut slots = vec![NO_STATE; lengths.len()];
        let mut steps: Vec<Step> = Vec::new();
        for index in 0..num_steps {
            let start = steps.last().map_or(0, |step| step.rows.end);
            let mut step = Step {
                rows: start..start,
                segments: Vec::new(),
                start_loc: vec![0],
                sequences: Vec::new(),
            };
            for (sequence, pieces) in lengths.iter().enumerate() {
                if let Some(&len) = pieces.get(index) {
                    step.push(sequence, len, index, &mut slots[sequence]);
                }
            }
            steps.push(step);
        }
        Self { lengths, steps }
    }

    pub(crate) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter()
    }

    pub(crate) fn num_rows(&self) -> usize {
        self.lengths.iter().flatten().sum()
    }

    pub(crate) fn num_slots(&self) -> usize {
        2 * self.lengths.len()
    }

    /// `of_one` of the rows of each sequence, put back to where the steps have these rows.
    pub(crate) fn by_sequence(
        &self,
        x: &[f32],
        cols: usize,
        of_one: impl Fn(&[f32]) -> Vec<f32>,
    ) -> Vec<f32> {
        let owners: Vec<usize> =
            self.steps.iter().flat_map(|step| step.sequences.iter().copied()).collect();
        let mut results: Vec<_> = (0..self.lengths.len())
            .map(|sequence| {
                let own = x.chunks(cols).zip(&owners).filter(|(_, owner)| **owner == sequence);
                let rows: Vec<f32> = own.flat_map(|(row, _)| row.iter().copied()).collect();
                of_one(&rows).into_iter()
            })
            .collect();
        let num_rows = owners.len();
        let out_cols = results.iter().map(ExactSizeIterator::len).sum::<usize>() / num_rows;
        owners
            .iter()
            .flat_map(|&owner| results[owner].by_ref().take(out_cols).collect::<Vec<_>>())
            .collect()
    }
}

impl Step {
    /// Some rows of a sequence: in place, to another slot, or in two segments.
    fn push(&mut self, sequence: usize, len: usize, index: usize, slot: &mut u32) {
        let other =
            |slot: u32| if slot == 2 * sequence as u32 { slot + 1 } else { 2 * sequence as u32 };
        let parts = if len > 2 && index.is_multiple_of(2) {
            vec![len / 2, len - len / 2]
        } else {
            vec![len]
        };
        for part in parts {
            let to = match *slot {
                NO_STATE => other(NO_STATE),
                slot if (index + part).is_multiple_of(3) => slot,
                slot => other(slot),
            };
            let first_row = self.sequences.len() as u32;
            self.segments.push(StateSegment { first_row, num_rows: part as u32, from: *slot, to });
            self.sequences.extend(vec![sequence; part]);
            *slot = to;
        }
        self.start_loc.push(self.segments.len() as u32);
        self.rows.end += len;
    }
}
