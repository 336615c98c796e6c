//! Selection among candidates in linear time: the k likeliest, and the shortest prefix that weighs enough.

use super::Buffers;
use super::passes::{self, Row, Scale};
use crate::cpu::SimdLevel;

/// A token that may be kept.
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    key: u64,
    pub(super) weight: u64,
}

impl Candidate {
    pub(super) fn new(token: u32, logit: f32, weight: u64) -> Self {
        // Adding 0 turns −0 into +0. The bits of floats, negative ones inverted, are in the order of their values.
        let bits = (logit + 0.0).to_bits();
        let descending = if bits >> 31 == 0 { !(bits | 1 << 31) } else { bits };
        Self { key: u64::from(descending) << 32 | u64::from(token), weight }
    }

    /// Ascending in the order of tokens: largest logit first, then lowest id.
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    pub(super) fn token(&self) -> u32 {
        self.key as u32
    }
}

/// Leaves the `k` likeliest tokens at or above the scale's threshold in `buffers.candidates`, in any order.
pub(super) fn collect_top_k(
    simd: SimdLevel,
    row: &Row,
    scale: &Scale,
    k: usize,
    buffers: &mut Buffers,
) {
    // k chunks have a logit of at least the k-th largest maximum, so the k likeliest tokens are not below it.
    let bound = kth_largest(row.chunk_maxima, k, &mut buffers.ordered_maxima);
    let threshold = scale.threshold.max(bound);
    collect(simd, row, &Scale { threshold, ..*scale }, buffers);
    let candidates = &mut buffers.candidates;
    if candidates.len() > k {
        candidates.select_nth_unstable_by_key(k - 1, Candidate::key);
        candidates.truncate(k);
    }
}

/// Leaves the tokens at or above the scale's threshold in `buffers.candidates`.
pub(super) fn collect(simd: SimdLevel, row: &Row, scale: &Scale, buffers: &mut Buffers) {
    buffers.candidates.clear();
    buffers.candidates.reserve(row.logits.len());
    passes::collect(simd, row, scale, &mut buffers.candidates);
}

/// The `k`-th largest of `values`; −∞ when there are fewer.
fn kth_largest(values: &[f32], k: usize, scratch: &mut Vec<f32>) -> f32 {
    scratch.clear();
    scratch.extend_from_slice(values);
    if k > scratch.len() {
        return f32::NEG_INFINITY;
    }
    *scratch.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// Reorders `candidates` so that its first `n` are the shortest prefix, in the order of `key`, that weighs at least
/// `target`; returns `n`. The target must lie in 1 ..= weight of all. Halves the range that is in doubt: linear time.
pub(super) fn weighted_prefix(
    candidates: &mut [Candidate],
    target: u64,
    key: impl Fn(&Candidate) -> u64,
) -> usize {
    let (mut start, mut end) = (0, candidates.len());
    let mut weight_before = 0;
    while end - start > 1 {
        let middle = (end - start) / 2;
        let doubtful = &mut candidates[start..end];
        doubtful.select_nth_unstable_by_key(middle, &key);
        let weight: u64 = doubtful[..middle].iter().map(|candidate| candidate.weight).sum();
        if weight_before + weight >= target {
            end = start + middle;
        } else {
            weight_before += weight;
            start += middle;
        }
    }
    start + 1
}
