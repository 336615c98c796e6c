//! The passes over a whole row, in chunks that fill vector registers: largest logits, weights, counts.
//!
//! Every SIMD level runs the same operations on each element and sums integers, so all give the same bits.
#![allow(
    clippy::inline_always,
    reason = "a body must be compiled again inside each function that enables an instruction set"
)]

use super::select::Candidate;
use crate::cpu::SimdLevel;

/// Logits looked at together: chunks whose largest logit is too small are skipped.
pub(super) const CHUNK: usize = 64;

const LANES: usize = 16;

/// The weight of the likeliest token: 2^44, so that 2^19 weights fit a `u64`.
pub(super) const FIXED_POINT_ONE: u64 = 1 << 44;

/// Below this exponent a weight rounds to 0: 2^44 · e^-32 = 0.22.
const SMALLEST_EXPONENT: f32 = -32.0;

/// A usable row: no NaN, no +∞, something above −∞.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) logits: &'a [f32],
    /// The largest logit of each chunk.
    pub(super) chunk_maxima: &'a [f32],
    pub(super) largest: f32,
}

impl<'a> Row<'a> {
    /// Index of the first token of each chunk whose largest logit `wanted` accepts, and the chunk's logits.
    fn chunks(&self, wanted: impl Fn(f32) -> bool) -> impl Iterator<Item = (usize, &'a [f32])> {
        let chunks = self.logits.chunks(CHUNK).enumerate().zip(self.chunk_maxima);
        chunks.filter(move |&(_, &max)| wanted(max)).map(|((i, chunk), _)| (i * CHUNK, chunk))
    }

    /// The token with the largest logit, the lowest id on ties.
    pub(super) fn likeliest(&self) -> u32 {
        let (start, chunk) =
            self.chunks(|max| max == self.largest).next().expect("a chunk has the row's largest");
        let place = chunk.iter().position(|&logit| logit == self.largest);
        (start + place.expect("the chunk's largest is one of its logits")) as u32
    }

    /// Tokens before `token` in the order by logit (largest first), then id.
    pub(super) fn num_likelier(&self, token: u32, logit: f32) -> usize {
        let count = |(start, chunk): (usize, &[f32])| {
            let larger = chunk.iter().filter(|&&other| other > logit).count();
            let ids_before = &chunk[..(token as usize).saturating_sub(start).min(chunk.len())];
            larger + ids_before.iter().filter(|&&other| other == logit).count()
        };
        self.chunks(|max| max >= logit).map(count).sum()
    }
}

/// How a logit becomes a weight: `round(2^44 · exp((logit − largest) · inverse_temperature))`, 0 below the threshold.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    pub(super) largest: f32,
    pub(super) inverse_temperature: f32,
    pub(super) threshold: f32,
}

impl Scale {
    /// Temperature 1, no threshold.
    pub(super) fn plain(largest: f32) -> Self {
        Self { largest, inverse_temperature: 1.0, threshold: f32::NEG_INFINITY }
    }

    /// Whether a chunk with this largest logit weighs anything.
    #[inline(always)]
    fn has_weight(&self, maximum: f32) -> bool {
        maximum >= self.threshold && self.exponent(maximum) >= SMALLEST_EXPONENT
    }

    #[inline(always)]
    fn exponent(&self, logit: f32) -> f32 {
        (logit - self.largest) * self.inverse_temperature
    }
}

pub(super) const BUCKETS_PER_EXPONENT: usize = 4;
pub(super) const NUM_BUCKETS: usize = 128;
pub(super) type Histogram = [u64; NUM_BUCKETS];

/// Defines a function that runs its body compiled for the instruction set asked for.
macro_rules! for_each_simd_level {
    ($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty = $body:ident) => {
        $(#[$doc])*
        pub(super) fn $name(simd: SimdLevel, $($argument: $type),*) -> $result {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($argument: $type),*) -> $result {
                    $body($($argument),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
                fn avx512($($argument: $type),*) -> $result {
                    $body($($argument),*)
                }
                match simd {
                    SimdLevel::Portable => $body($($argument),*),
                    // SAFETY: a device is only made with a level that the machine has.
                    SimdLevel::Avx2 | SimdLevel::AvxVnni => unsafe { avx2($($argument),*) },
                    // SAFETY: as above.
                    SimdLevel::Avx512 | SimdLevel::Avx512Bf16 => unsafe { avx512($($argument),*) },
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                let _ = simd;
                $body($($argument),*)
            }
        }
    };
}

/// Reads a row once; `None` when it is not usable.
pub(super) fn scan<'a>(
    simd: SimdLevel,
    logits: &'a [f32],
    chunk_maxima: &'a mut Vec<f32>,
) -> Option<Row<'a>> {
    chunk_maxima.clear();
    chunk_maxima.resize(logits.len().div_ceil(CHUNK), f32::NEG_INFINITY);
    let all_below_infinity = find_maxima(simd, logits, chunk_maxima);
    usable(logits, chunk_maxima, all_below_infinity)
}

/// Writes −∞ over the logits of tokens that `allowed` leaves out and reads the row, all in one pass; `None` as `scan`.
pub(super) fn scan_allowed<'a>(
    simd: SimdLevel,
    logits: &'a mut [f32],
    allowed: &[u32],
    chunk_maxima: &'a mut Vec<f32>,
) -> Option<Row<'a>> {
    chunk_maxima.clear();
    chunk_maxima.resize(logits.len().div_ceil(CHUNK), f32::NEG_INFINITY);
    let all_below_infinity = keep_allowed(simd, logits, allowed, chunk_maxima);
    usable(logits, chunk_maxima, all_below_infinity)
}

fn usable<'a>(
    logits: &'a [f32],
    chunk_maxima: &'a [f32],
    all_below_infinity: bool,
) -> Option<Row<'a>> {
    let largest = chunk_maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let usable = all_below_infinity && largest > f32::NEG_INFINITY;
    usable.then_some(Row { logits, chunk_maxima, largest })
}

/// The sum of weights of each chunk, and of the row.
pub(super) fn weigh(
    simd: SimdLevel,
    row: &Row,
    scale: &Scale,
    chunk_weights: &mut Vec<u64>,
) -> u64 {
    chunk_weights.resize(row.chunk_maxima.len(), 0);
    weigh_chunks(simd, row, scale, chunk_weights)
}

for_each_simd_level! {
    /// The largest logit of each chunk; false when a logit is NaN or +∞.
    fn find_maxima(logits: &[f32], maxima: &mut [f32]) -> bool = find_maxima_body
}

for_each_simd_level! {
    /// As `find_maxima` of the row that `allowed` leaves, and was given.
    fn keep_allowed(logits: &mut [f32], allowed: &[u32], maxima: &mut [f32]) -> bool = keep_allowed_body
}

for_each_simd_level! {
    /// The sum of weights of each chunk, and of the row.
    fn weigh_chunks(row: &Row, scale: &Scale, chunk_weights: &mut [u64]) -> u64 = weigh_body
}

for_each_simd_level! {
    /// The weight of the tokens in each bucket: bucket b has the exponents around −b / 4, the last all smaller ones.
    fn fill_histogram(row: &Row, scale: &Scale, histogram: &mut Histogram) -> () = histogram_body
}

for_each_simd_level! {
    /// Appends the tokens at or above the scale's threshold, with their weights, in the order of ids.
    fn collect(row: &Row, scale: &Scale, candidates: &mut Vec<Candidate>) -> () = collect_body
}

for_each_simd_level! {
    /// The first token of chunk `index` at which the running sum of weights exceeds `target`.
    fn find_in_chunk(row: &Row, scale: &Scale, index: usize, target: u64) -> u32 = find_in_chunk_body
}

#[inline(always)]
fn find_maxima_body(logits: &[f32], maxima: &mut [f32]) -> bool {
    let mut unusable = [0_u32; LANES];
    for (chunk, maximum) in logits.chunks(CHUNK).zip(maxima) {
        let chunk = padded(chunk);
        let mut largest = [f32::NEG_INFINITY; LANES];
        for part in chunk.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                let logit = part[lane];
                largest[lane] = if logit > largest[lane] { logit } else { largest[lane] };
                let below_infinity = logit < f32::INFINITY;
                unusable[lane] |= u32::from(!below_infinity);
            }
        }
        *maximum = largest_lane(largest);
    }
    unusable == [0; LANES]
}

#[inline(always)]
fn keep_allowed_body(logits: &mut [f32], allowed: &[u32], maxima: &mut [f32]) -> bool {
    let mut unusable = [0_u32; LANES];
    let word = |index: usize| u64::from(allowed.get(index).copied().unwrap_or(0));
    for (index, (chunk, maximum)) in logits.chunks_mut(CHUNK).zip(maxima).enumerate() {
        let bits = word(2 * index) | word(2 * index + 1) << 32;
        let mut kept = padded(chunk);
        let mut largest = [f32::NEG_INFINITY; LANES];
        for (part, values) in kept.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let bits = (bits >> (part * LANES)) as u32;
            for lane in 0..LANES {
                let below_infinity = values[lane] < f32::INFINITY;
                unusable[lane] |= u32::from(!below_infinity);
                let is_allowed = bits >> lane & 1 == 1;
                let logit = if is_allowed { values[lane] } else { f32::NEG_INFINITY };
                largest[lane] = if logit > largest[lane] { logit } else { largest[lane] };
                values[lane] = logit;
            }
        }
        chunk.copy_from_slice(&kept[..chunk.len()]);
        *maximum = largest_lane(largest);
    }
    unusable == [0; LANES]
}

/// By halves: one lane after the other would take longer than the chunk itself.
#[inline(always)]
fn largest_lane(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            let other = lanes[lane + half];
            lanes[lane] = if other > lanes[lane] { other } else { lanes[lane] };
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn weigh_body(row: &Row, scale: &Scale, chunk_weights: &mut [u64]) -> u64 {
    let mut total = 0;
    let chunks = row.logits.chunks(CHUNK).zip(row.chunk_maxima);
    for ((chunk, &maximum), sum) in chunks.zip(chunk_weights) {
        *sum = 0;
        if scale.has_weight(maximum) {
            for weight in weights(&padded(chunk), scale) {
                *sum += weight;
            }
        }
        total += *sum;
    }
    total
}

#[inline(always)]
fn histogram_body(row: &Row, scale: &Scale, histogram: &mut Histogram) {
    // Neighbours write to histograms of their own: none waits for the store of the one before.
    let mut parts = [[0_u64; NUM_BUCKETS]; 4];
    for (chunk, &maximum) in row.logits.chunks(CHUNK).zip(row.chunk_maxima) {
        if scale.has_weight(maximum) {
            let chunk = padded(chunk);
            let (weights, buckets) = (weights(&chunk, scale), buckets(&chunk, scale));
            for place in 0..CHUNK {
                parts[place % 4][buckets[place] as usize % NUM_BUCKETS] += weights[place];
            }
        }
    }
    for (bucket, sum) in histogram.iter_mut().enumerate() {
        *sum = parts.iter().map(|part| part[bucket]).sum();
    }
}

#[inline(always)]
fn collect_body(row: &Row, scale: &Scale, candidates: &mut Vec<Candidate>) {
    let wanted = |logit: f32| logit >= scale.threshold && logit > f32::NEG_INFINITY;
    for (start, chunk) in row.chunks(wanted) {
        let weights = weights(&padded(chunk), scale);
        for (offset, (&logit, weight)) in chunk.iter().zip(weights).enumerate() {
            if wanted(logit) {
                candidates.push(Candidate::new((start + offset) as u32, logit, weight));
            }
        }
    }
}

#[inline(always)]
fn find_in_chunk_body(row: &Row, scale: &Scale, index: usize, target: u64) -> u32 {
    let start = index * CHUNK;
    let chunk = &row.logits[start..row.logits.len().min(start + CHUNK)];
    let mut sum = 0;
    let exceeds = |weight| {
        sum += weight;
        sum > target
    };
    let place = weights(&padded(chunk), scale).into_iter().position(exceeds);
    (start + place.expect("the target is below the chunk's weight")) as u32
}

/// The chunk, filled up with logits that weigh nothing.
#[inline(always)]
fn padded(chunk: &[f32]) -> [f32; CHUNK] {
    if let Ok(&full) = chunk.try_into() {
        return full;
    }
    let mut full = [f32::NEG_INFINITY; CHUNK];
    full[..chunk.len()].copy_from_slice(chunk);
    full
}

#[inline(always)]
fn weights(chunk: &[f32; CHUNK], scale: &Scale) -> [u64; CHUNK] {
    // Adding 2^8 leaves 44 bits behind the point in an f64: the sum's last bits are the rounded fixed-point weight.
    const POINT: f64 = 256.0;
    let mut weights = [0; CHUNK];
    for (weight, &logit) in weights.iter_mut().zip(chunk) {
        let value = exp(scale.exponent(logit));
        let value = if logit >= scale.threshold { value } else { 0.0 };
        *weight = (f64::from(value) + POINT).to_bits() - POINT.to_bits();
    }
    weights
}

/// The bucket of each logit: `round(−4 · exponent)`, or the last.
#[inline(always)]
fn buckets(chunk: &[f32; CHUNK], scale: &Scale) -> [u32; CHUNK] {
    const LAST: f32 = (NUM_BUCKETS - 1) as f32;
    const ROUND: f32 = 8_388_608.0; // 2^23: adding it rounds to an integer, found in the last bits
    let mut buckets = [0; CHUNK];
    for (bucket, &logit) in buckets.iter_mut().zip(chunk) {
        let depth = scale.exponent(logit) * -(BUCKETS_PER_EXPONENT as f32);
        let depth = if depth < LAST { depth } else { LAST };
        *bucket = (depth + ROUND).to_bits() - ROUND.to_bits();
    }
    buckets
}

/// e^x for x ≤ 0 with a relative error below 2^-22; what rounds to weight 0, and NaN, gives some value that does too.
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, then 2^n times the Taylor polynomial of e^r.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to an integer, found in the last bits
    const LN_2_HIGH: f32 = 355.0 / 512.0; // few enough bits that n times it is exact
    const LN_2_LOW: f32 = -2.121_944_4e-4; // ln 2 less the above
    let x = if x > SMALLEST_EXPONENT - 1.0 { x } else { SMALLEST_EXPONENT - 1.0 };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut sum = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum * r + coefficient;
    }
    sum * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}
