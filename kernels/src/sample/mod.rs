//! From logits to one token a row: masks, penalties, filters, a counter-based draw, and log-probabilities.
//!
//! Order within a row (vLLM's): log-probabilities of the raw logits are set aside → `allowed` and `banned` →
//! `logit_bias` → repetition, frequency and presence penalty → (greedy ends here) → temperature → `min_p` → `top_k` →
//! `top_p` → draw. `top_k` counts what `min_p` left; `top_p` is a share of what both left.
//!
//! Tokens are ordered by logit, largest first, and equal logits by id, lowest first. So each filter keeps a prefix of
//! that order, and ties never make a kept set larger than asked.
//!
//! A token's weight is `round(2^44 · exp((logit − largest logit) / temperature))`, an integer: sums of weights are exact,
//! hence the same in every order and for every way to cut the work. A row's result is a function of its logits and its
//! `SampleRow`, never of other rows or of the number of threads.

pub mod cases;
mod cpu;
mod cuda;
pub mod philox;
pub mod reference;
mod table;
#[cfg(test)]
mod tests;

pub use cuda::{BansBefore, MAX_NUM_LOGPROBS_ON_CUDA};
pub use table::{SampleLimits, SampleTable};

use crate::device::Device;
use crate::tensor::{DType, View, ViewMut};

/// Largest vocabulary: the sum of this many weights still fits a `u64`.
pub const MAX_VOCABULARY: usize = 1 << 19;

/// Temperatures below this are greedy.
pub const GREEDY_TEMPERATURE: f32 = 1e-5;

/// What one row asks of the sampler. Token ids beyond the vocabulary are ignored everywhere.
#[derive(Clone, Copy, Debug)]
pub struct SampleRow<'a> {
    /// Below `GREEDY_TEMPERATURE` (or NaN): the likeliest token, the lowest id on ties.
    pub temperature: f32,
    /// Keep this many tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the fewest tokens whose probabilities reach this sum, at least one; 1 or more keeps all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies other logits of tokens in the prompt or the output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of each token in the output.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit once for each time it is in the output.
    pub frequency_penalty: f32,
    /// Read by the repetition penalty only.
    pub prompt_tokens: &'a [u32],
    /// Read by the penalties only.
    pub output_tokens: &'a [u32],
    /// Added to the logits of these tokens.
    pub logit_bias: &'a [(u32, f32)],
    /// Bit `i % 32` of word `i / 32` allows token `i`; tokens beyond the last word are not allowed.
    pub allowed: Option<&'a [u32]>,
    /// Tokens that must not be sampled.
    pub banned: &'a [u32],
    /// Key of the random number.
    pub seed: u64,
    /// Counter of the random number: output tokens so far.
    pub position: u32,
    /// `Some(k)`: report the sampled token's log-probability and rank, and the `k` likeliest tokens.
    pub num_logprobs: Option<u32>,
}

impl Default for SampleRow<'_> {
    /// Greedy, with every filter and penalty off.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            prompt_tokens: &[],
            output_tokens: &[],
            logit_bias: &[],
            allowed: None,
            banned: &[],
            seed: 0,
            position: 0,
            num_logprobs: None,
        }
    }
}

impl SampleRow<'_> {
    fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }

    /// Whether the sampler writes to the row before it chooses.
    fn changes_logits(&self) -> bool {
        self.allowed.is_some()
            || !self.banned.is_empty()
            || !self.logit_bias.is_empty()
            || self.has_penalties()
    }

    /// The mask, where the sampler writes nothing else to the row and reports nothing of it.
    fn only_mask(&self) -> Option<&[u32]> {
        let others = !self.banned.is_empty()
            || !self.logit_bias.is_empty()
            || self.has_penalties()
            || self.num_logprobs.is_some();
        self.allowed.filter(|_| !others)
    }

    fn is_greedy(&self) -> bool {
        // Written so that NaN is greedy too.
        !matches!(self.temperature.partial_cmp(&GREEDY_TEMPERATURE), Some(order) if order.is_ge())
    }
}

/// What a row got. Reuse it from step to step: `top` keeps its capacity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampled {
    pub token: u32,
    /// False when a logit of the row is NaN or +∞, or when no token is left to choose: the other fields are 0 then, and
    /// only this row has failed.
    pub finite: bool,
    /// Natural logarithm of the token's probability under the raw logits; 0 when not asked for.
    pub logprob: f32,
    /// 1 for the likeliest token of the raw logits, in the order above; 0 when not asked for.
    pub rank: u32,
    /// The likeliest tokens of the raw logits with their log-probabilities, likeliest first; none at −∞.
    pub top: Vec<(u32, f32)>,
}

impl Sampled {
    fn clear(&mut self) {
        let mut top = std::mem::take(&mut self.top);
        top.clear();
        *self = Self { top, ..Self::default() };
    }
}

/// One token for each row of `logits`: `[n, vocabulary]` F32, left in an unspecified state.
/// `out` and `rows` have `n` entries.
#[allow(clippy::needless_pass_by_value, reason = "a ViewMut is itself the exclusive borrow")]
pub fn sample(device: &Device, out: &mut [Sampled], logits: ViewMut, rows: &[SampleRow]) {
    check(out, &logits.as_view());
    assert_eq!(rows.len(), logits.rows(), "rows");
    match device {
        Device::Cpu(cpu) => cpu::sample(cpu, out, &logits, rows),
        Device::Cuda(cuda) => cuda::sample(cuda, out, &logits.as_view(), rows),
        Device::Trace(log) => log.push(format!("sample {}x{}", logits.rows(), logits.cols())),
    }
}

/// Log-probability and rank of a given token for each row, and the row's `num_top` likeliest tokens (prompt
/// log-probabilities). `logits`: `[n, vocabulary]` F32; `out`, `targets` and `num_top` have `n` entries.
/// A target beyond the vocabulary gets −∞ and the rank behind the last token.
pub fn logprobs(
    device: &Device,
    out: &mut [Sampled],
    logits: View,
    targets: &[u32],
    num_top: &[u32],
) {
    check(out, &logits);
    assert_eq!((targets.len(), num_top.len()), (logits.rows(), logits.rows()), "targets, num_top");
    match device {
        Device::Cpu(cpu) => cpu::logprobs(cpu, out, logits, targets, num_top),
        Device::Cuda(cuda) => cuda::logprobs(cuda, out, &logits, targets, num_top),
        Device::Trace(log) => log.push(format!("logprobs {}x{}", logits.rows(), logits.cols())),
    }
}

fn check(out: &[Sampled], logits: &View) {
    assert_eq!(out.len(), logits.rows(), "out");
    assert_eq!(logits.dtype(), DType::F32, "logits");
    assert!((1..=MAX_VOCABULARY).contains(&logits.cols()), "vocabulary of {}", logits.cols());
}
