//! The plain way: one token after the other, as if nothing had been guessed: the oracle of `verify_drafts`.

use crate::sample::reference::sample_row;
use crate::sample::{SampleRow, Sampled};

/// What one sequence gets: its right drafts and one token more. `drafts`: each with the path of drafts to it, itself included;
/// `logits[0]` and `rows[0]` follow no draft, `logits[i]` and `rows[i]` the path of draft `i`, counted from 1.
pub fn verify_sequence(
    logits: &[&[f32]],
    rows: &[SampleRow],
    paths: &[Vec<u32>],
) -> Vec<(usize, Sampled)> {
    let (mut valid, mut text, mut row) = (Vec::new(), Vec::new(), 0);
    loop {
        let sampled = sample_row(logits[row], &rows[row]);
        if !sampled.finite && row > 0 {
            return valid;
        }
        text.push(sampled.token);
        let is_finite = sampled.finite;
        valid.push((row, sampled));
        match paths.iter().position(|path| *path == text).filter(|_| is_finite) {
            Some(draft) => row = draft + 1,
            None => return valid,
        }
    }
}
