//! Guessed tokens against the model: how many of them are right, and which token follows those.
//!
//! Row `i` of a sequence holds the logits after its first `i` drafts. Each row is sampled as `sample` does it, a pure
//! function of logits, seed and position, and a draft is right when it is the token that its row got. So the tokens are
//! those that sampling one by one gives, whatever was guessed and however many: greedy or not, an answer does not depend
//! on speculation by a single bit, and what is recomputed after a preemption is the same.
//!
//! For a draft `x` that was chosen without chance (the proposal q is 1 at x) this is rejection sampling (Leviathan et al.
//! 2023, Chen et al. 2023) with one random number for both questions: x is accepted with probability min(1, p(x) / q(x)) =
//! p(x), and given that it is not, the token follows p without x. A draft drawn with the same random number from another
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
}

/// Samples the `1 + counts[s]` rows of each sequence `s`, which follow each other in `logits` (`[n, vocabulary]` F32, left in
/// an unspecified state), `rows` and `out`. The first `num_valid[s]` entries of its part of `out` hold: its right drafts,
/// then one token more, sampled after them. The rest is of no use.
///
/// A row whose logits are not numbers ends a sequence before it. Only where it is the first, its entry counts (with
/// `finite` false): later ones fail when they are the first of a step to come, as without drafts.
///
/// Penalties read the drafts before a row: its `output_tokens` contain them.
#[allow(clippy::needless_pass_by_value, reason = "a ViewMut is itself the exclusive borrow")]
pub fn verify_drafts(
    device: &Device,
    out: &mut [Sampled],
    num_valid: &mut [u32],
    logits: ViewMut,
    rows: &[SampleRow],
    drafts: Drafts,
) {
    assert_eq!(num_valid.len(), drafts.counts.len(), "num_valid");
    let num_drafts: usize = drafts.counts.iter().map(|&count| count as usize).sum();
    assert_eq!(drafts.tokens.len(), num_drafts, "drafts");
    assert_eq!(rows.len(), num_drafts + drafts.counts.len(), "rows");
    if let Device::Trace(log) = device {
        log.push(format!("verify_drafts {}x{}, {num_drafts} drafts", logits.rows(), logits.cols()));
        return;
    }
    sample(device, out, logits, rows);
    cpu::count_valid(out, num_valid, drafts);
}
