//! The filters and the draw.

use super::Buffers;
use super::passes::{self, BUCKETS_PER_EXPONENT, Histogram, NUM_BUCKETS, Row, Scale};
use super::select::{self, Candidate, weighted_prefix};
use crate::cpu::SimdLevel;
use crate::sample::{SampleRow, philox};

/// The tokens that the filters leave.
enum Kept {
    /// Those at or above the scale's threshold; `chunk_weights` holds their weights.
    AboveThreshold(Scale),
    /// Those in `candidates`.
    Candidates,
}

/// The first token, in the order of ids, at which the cumulative probability reaches a uniform number in (0, 1].
pub(super) fn draw(simd: SimdLevel, row: &Row, want: &SampleRow, buffers: &mut Buffers) -> u32 {
    let kept = keep(simd, row, want, buffers);
    let bits = philox::random_bits(want.seed, want.position, 0);
    // A uniform integer below the total, as bits / 2^64 of it.
    let target = |total: u64| ((u128::from(bits) * u128::from(total)) >> 64) as u64;
    match kept {
        Kept::AboveThreshold(scale) => {
            let mut left = target(buffers.chunk_weights.iter().sum());
            let chunk = buffers.chunk_weights.iter().position(|&weight| {
                let found = left < weight;
                left -= if found { 0 } else { weight };
                found
            });
            let chunk = chunk.expect("the target is below the sum of all chunks");
            passes::find_in_chunk(simd, row, &scale, chunk, left)
        }
        Kept::Candidates => {
            let candidates = &mut buffers.candidates;
            let target = target(total_weight(candidates)) + 1;
            let id = |candidate: &Candidate| u64::from(candidate.token());
            let place = weighted_prefix(candidates, target, id) - 1;
            candidates[place].token()
        }
    }
}

fn keep(simd: SimdLevel, row: &Row, want: &SampleRow, buffers: &mut Buffers) -> Kept {
    let scale = Scale {
        largest: row.largest,
        inverse_temperature: 1.0 / want.temperature,
        threshold: min_p_threshold(row.largest, want),
    };
    let num_tokens = row.logits.len();
    let top_k = want.top_k as usize;
    if (1..num_tokens).contains(&top_k) {
        select::collect_top_k(simd, row, &scale, top_k, buffers);
        if want.top_p < 1.0 {
            let target = share(total_weight(&buffers.candidates), want.top_p);
            keep_prefix(&mut buffers.candidates, target);
        }
        return Kept::Candidates;
    }
    if want.top_p < 1.0 {
        let mut histogram = [0; NUM_BUCKETS];
        passes::fill_histogram(simd, row, &scale, &mut histogram);
        let target = share(histogram.iter().sum(), want.top_p);
        let threshold = scale.threshold.max(bucket_threshold(&histogram, target, &scale, want));
        select::collect(simd, row, &Scale { threshold, ..scale }, buffers);
        keep_prefix(&mut buffers.candidates, target);
        return Kept::Candidates;
    }
    passes::weigh(simd, row, &scale, &mut buffers.chunk_weights);
    Kept::AboveThreshold(scale)
}

/// A logit below which no token is needed to reach the target.
fn bucket_threshold(histogram: &Histogram, target: u64, scale: &Scale, want: &SampleRow) -> f32 {
    let mut weight = 0;
    let reaches = |in_bucket: &u64| {
        weight += in_bucket;
        weight >= target
    };
    let bucket = histogram.iter().position(reaches).expect("the target is at most the total");
    if bucket == NUM_BUCKETS - 1 {
        return f32::NEG_INFINITY;
    }
    // The bucket ends half a bucket earlier: room for rounding.
    let exponent = -((bucket + 1) as f64) / BUCKETS_PER_EXPONENT as f64;
    (f64::from(scale.largest) + f64::from(want.temperature) * exponent) as f32
}

/// The smallest logit whose probability is at least `min_p` times the largest probability.
fn min_p_threshold(largest: f32, want: &SampleRow) -> f32 {
    let keeps_all = !matches!(want.min_p.partial_cmp(&0.0), Some(order) if order.is_gt());
    if keeps_all {
        return f32::NEG_INFINITY;
    }
    let exponent = f64::from(want.min_p.min(1.0)).ln();
    let exact = f64::from(largest) + f64::from(want.temperature) * exponent;
    let rounded = exact as f32;
    let not_below = if f64::from(rounded) < exact { rounded.next_up() } else { rounded };
    not_below.min(largest) // also where an infinite temperature made it NaN
}

/// `top_p` of the total, rounded up, and at least 1.
fn share(total: u64, top_p: f32) -> u64 {
    ((f64::from(top_p) * total as f64).ceil() as u64).clamp(1, total)
}

/// Keeps the fewest candidates, likeliest first, that weigh at least `target`.
fn keep_prefix(candidates: &mut Vec<Candidate>, target: u64) {
    let num_kept = weighted_prefix(candidates, target, Candidate::key);
    candidates.truncate(num_kept);
}

fn total_weight(candidates: &[Candidate]) -> u64 {
    candidates.iter().map(|candidate| candidate.weight).sum()
}

/// The tokens the filters leave of processed logits, by id.
#[cfg(test)]
pub(crate) fn kept_tokens(simd: SimdLevel, logits: &[f32], want: &SampleRow) -> Vec<u32> {
    let mut maxima = Vec::new();
    let row = passes::scan(simd, logits, &mut maxima).expect("a usable row");
    let mut buffers = Buffers::default();
    if let Kept::AboveThreshold(scale) = keep(simd, &row, want, &mut buffers) {
        select::collect(simd, &row, &scale, &mut buffers);
    }
    let mut tokens: Vec<u32> = buffers.candidates.iter().map(Candidate::token).collect();
    tokens.sort_unstable();
    tokens
}
