//! The comparison of drafts with what their rows got: on the host, whatever device sampled them.

use super::Drafts;
use crate::sample::Sampled;

/// Fills `num_valid` from the rows of all sequences.
pub(super) fn count_valid(mut sampled: &[Sampled], num_valid: &mut [u32], drafts: Drafts) {
    let mut tokens = drafts.tokens;
    for (num_valid, &count) in num_valid.iter_mut().zip(drafts.counts) {
        let (own, others) = sampled.split_at(1 + count as usize);
        let (own_tokens, other_tokens) = tokens.split_at(count as usize);
        *num_valid = valid_rows(own, own_tokens);
        (sampled, tokens) = (others, other_tokens);
    }
}

/// Rows of one sequence up to the first that gives no right draft.
fn valid_rows(sampled: &[Sampled], drafts: &[u32]) -> u32 {
    let is_right = |(row, draft): (&Sampled, &u32)| row.finite && row.token == *draft;
    let num_right = sampled.iter().zip(drafts).take_while(|&pair| is_right(pair)).count();
    let says_more = sampled[num_right].finite || num_right == 0;
    num_right as u32 + u32::from(says_more)
}
