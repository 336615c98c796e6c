//! The plain way: one token after the other, as if nothing had been guessed: the oracle of `verify_drafts`.

use crate::sample::reference::sample_row;
use crate::sample::{SampleRow, Sampled};

/// What one sequence gets: its right drafts and one token more. `logits[i]` and `rows[i]` follow the first `i` drafts.
pub fn verify_sequence(logits: &[&[f32]], rows: &[SampleRow], drafts: &[u32]) -> Vec<Sampled> {
    let mut valid = Vec::new();
    for (index, (logits, row)) in logits.iter().zip(rows).enumerate() {
        let sampled = sample_row(logits, row);
        if !sampled.finite && index > 0 {
            break;
        }
        let goes_on = sampled.finite && drafts.get(index) == Some(&sampled.token);
        valid.push(sampled);
        if !goes_on {
            break;
        }
    }
    valid
}
