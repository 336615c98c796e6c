//! The comparison of drafts with what their rows got: on the host, whatever device sampled them.

use super::{Drafts, Verified};
use crate::sample::Sampled;

/// Fills `verified` from the rows of all sequences, and moves the right ones to the front of each.
pub(super) fn keep_right(mut sampled: &mut [Sampled], verified: Verified, drafts: Drafts) {
    let (mut tokens, mut parents, mut rows) = (drafts.tokens, drafts.parents, verified.rows);
    for (num_valid, &count) in verified.num_valid.iter_mut().zip(drafts.counts) {
        let count = count as usize;
        let (own, others) = sampled.split_at_mut(1 + count);
        let (own_tokens, other_tokens) = tokens.split_at(count);
        let (own_parents, other_parents) = parents.split_at(count);
        let (own_rows, other_rows) = rows.split_at_mut(1 + count);
        *num_valid = right_rows(own, (own_tokens, own_parents), own_rows);
        for (place, &row) in own_rows[..*num_valid as usize].iter().enumerate() {
            // A row is never before its place.
            own.swap(place, usize::from(row));
        }
        (sampled, tokens, parents, rows) = (others, other_tokens, other_parents, other_rows);
    }
}

/// The way of one sequence from row 0 along right drafts; its length.
fn right_rows(sampled: &[Sampled], (tokens, parents): (&[u32], &[u8]), rows: &mut [u8]) -> u32 {
    let (mut row, mut num_valid) = (0, 0);
    loop {
        let Sampled { token, finite, .. } = sampled[usize::from(row)];
        if !finite && num_valid > 0 {
            return num_valid;
        }
        rows[num_valid as usize] = row;
        num_valid += 1;
        let is_next = |(&draft, &parent): (&u32, &u8)| parent == row && draft == token;
        match tokens.iter().zip(parents).position(is_next).filter(|_| finite) {
            Some(draft) => row = draft as u8 + 1,
            None => return num_valid,
        }
    }
}
