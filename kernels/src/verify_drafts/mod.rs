//! Guessed tokens against the model: how many of them are right, and which token follows those.
//!
//! Drafts are a chain or a tree: each follows the known tokens, or a draft before it. Row 0 of a sequence holds the logits after
//! its known tokens, row `i` those after draft `i` and what that follows. Each row is sampled as `sample` does it, a pure
//! function of logits, seed and position, and a draft is right when it is the token that its row got. So the tokens are
//! those that sampling one by one gives, whatever was guessed and however many: greedy or not, an answer does not depend
//! on speculation by a single bit, and what is recomputed after a preemption is the same.
//!
//! For a draft `x` that was chosen without chance (the proposal q is 1 at x) this is rejection sampling (Leviathan et al.
//! 2023, Chen et al. 2023) with one random number for both questions: x is accepted with probability min(1, p(x) / q(x)) =
//! p(x), and given that it is not, the token follows p without x. Of several drafts at one place (SpecInfer: Miao et al. 2023)
//! the next is accepted with its share of what is left, and so on: together with the sum of their probabilities, here too. A
//! draft drawn with the same random number from another
//! model's distribution keeps p as well (Daliri, Musco and Suresh 2024, "Coupling without communication and drafter-invariant
//! speculative decoding"); it is right the more often the nearer q is to p, and always where they are the same.
//!
//! No device has a kernel of its own: the rows are `sample`'s, and tokens are compared where they arrive, on the host.

pub mod cases;
mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

use crate::device::Device;
use crate::sample::{SampleRow, Sampled, sample};
use crate::tensor::ViewMut;

/// The guesses of a step, sequence after sequence.
#[derive(Clone, Copy, Debug)]
pub struct Drafts<'a> {
    pub tokens: &'a [u32],
    /// How many of them belong to each sequence.
    pub counts: &'a [u32],
    /// Which draft of its sequence each one follows, counted from 1 and before it; 0: the known tokens. A chain: 0, 1, 2, …
    pub parents: &'a [u8],
}

/// What is right of each sequence's drafts: of its rows of the call, 1 + `counts[s]` places each.
pub struct Verified<'a> {
    /// By sequence: places that hold.
    pub num_valid: &'a mut [u32],
    /// The row of the sequence that each place's token was sampled from: 0, then right drafts in order.
    pub rows: &'a mut [u8],
}

/// Samples the `1 + counts[s]` rows of each sequence `s`, which follow each other in `logits` (`[n, vocabulary]` F32, left in
/// an unspecified state), `rows`, `out` and `verified.rows`. The first `num_valid[s]` entries of its part of `out` hold: its
/// right drafts, then one token more, sampled after them. The rest is of no use.
///
/// A row whose logits are not numbers ends a sequence before it. Only where it is the first, its entry counts (with
/// `finite` false): later ones fail when they are the first of a step to come, as without drafts.
///
/// Penalties read the drafts before a row, those that it follows: its `output_tokens` contain them.
#[allow(clippy::needless_pass_by_value, reason = "a ViewMut is itself the exclusive borrow")]
pub fn verify_drafts(
    device: &Device,
    out: &mut [Sampled],
    verified: Verified,
    logits: ViewMut,
    rows: &[SampleRow],
    drafts: Drafts,
) {
    assert_eq!(verified.num_valid.len(), drafts.counts.len(), "num_valid");
    let num_drafts: usize = drafts.counts.iter().map(|&count| count as usize).sum();
    assert_eq!(drafts.tokens.len(), num_drafts, "drafts");
    assert_eq!(drafts.parents.len(), num_drafts, "parents");
    assert_eq!(rows.len(), num_drafts + drafts.counts.len(), "rows");
    assert_eq!(verified.rows.len(), rows.len(), "verified rows");
    if let Device::Trace(log) = device {
        log.push(format!("verify_drafts {}x{}, {num_drafts} drafts", logits.rows(), logits.cols()));
        return;
    }
    sample(device, out, logits, rows);
    cpu::keep_right(out, verified, drafts);
}
