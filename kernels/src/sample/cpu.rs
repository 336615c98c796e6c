//! `sample` on the CPU: one task a row, a few vectorised passes, no sort of the vocabulary, no allocation once warm.

mod draw;
mod passes;
mod process;
mod select;

use std::cell::RefCell;
use std::marker::PhantomData;

#[cfg(test)]
pub(super) use draw::kept_tokens;
#[cfg(test)]
pub(super) use passes::exp;

use self::passes::{FIXED_POINT_ONE, Row, Scale};
use self::select::Candidate;
use super::{SampleRow, Sampled};
use crate::cpu::SimdLevel;
use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

pub(super) fn sample(cpu: &CpuDevice, out: &mut [Sampled], logits: &ViewMut, rows: &[SampleRow]) {
    let out = Disjoint::new(out);
    cpu.pool.run(rows.len(), &|row| {
        // SAFETY: each task takes its own row of either.
        let (out, logits) = unsafe { (out.get(row), logits.row_f32_shared(row)) };
        SCRATCH.with_borrow_mut(|scratch| scratch.sample(cpu.simd, out, logits, &rows[row]));
    });
}

pub(super) fn logprobs(
    cpu: &CpuDevice,
    out: &mut [Sampled],
    logits: View,
    targets: &[u32],
    num_top: &[u32],
) {
    let out = Disjoint::new(out);
    cpu.pool.run(targets.len(), &|row| {
        // SAFETY: each task takes its own row.
        let out = unsafe { out.get(row) };
        let logits = logits.row_f32(row);
        SCRATCH.with_borrow_mut(|Scratch { raw_maxima, buffers, .. }| {
            out.clear();
            if let Some(scanned) = passes::scan(cpu.simd, logits, raw_maxima) {
                report(cpu.simd, out, &scanned, targets[row], num_top[row], buffers);
            }
        });
    });
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What one thread needs for one row; grows to the largest vocabulary met.
#[derive(Default)]
struct Scratch {
    /// The row as the model left it, when both this and the processed row are needed.
    raw: Vec<f32>,
    raw_maxima: Vec<f32>,
    maxima: Vec<f32>,
    /// All zero between rows.
    counts: Vec<u32>,
    buffers: Buffers,
}

#[derive(Default)]
struct Buffers {
    chunk_weights: Vec<u64>,
    candidates: Vec<Candidate>,
    ordered_maxima: Vec<f32>,
}

impl Scratch {
    fn sample(&mut self, simd: SimdLevel, out: &mut Sampled, logits: &mut [f32], row: &SampleRow) {
        let Self { raw, raw_maxima, maxima, counts, buffers } = self;
        out.clear();
        if let Some(allowed) = row.only_mask() {
            if let Some(left) = passes::scan_allowed(simd, logits, allowed, maxima) {
                out.token = choose(simd, &left, row, buffers);
                out.finite = true;
            }
            return;
        }
        let changes = row.changes_logits();
        raw.clear();
        if changes && row.num_logprobs.is_some() {
            raw.extend_from_slice(logits);
        }
        let Some(unprocessed) = passes::scan(simd, logits, raw_maxima) else { return };
        let largest = unprocessed.largest;
        let processed = if changes {
            process::process(logits, row, counts);
            passes::scan(simd, logits, maxima)
        } else {
            Some(unprocessed)
        };
        let Some(processed) = processed else { return };
        out.token = choose(simd, &processed, row, buffers);
        out.finite = true;
        if let Some(num_top) = row.num_logprobs {
            let raw = if changes {
                Row { logits: raw, chunk_maxima: raw_maxima, largest }
            } else {
                processed
            };
            report(simd, out, &raw, out.token, num_top, buffers);
        }
    }
}

fn choose(simd: SimdLevel, processed: &Row, row: &SampleRow, buffers: &mut Buffers) -> u32 {
    match row.is_greedy() {
        true => processed.likeliest(),
        false => draw::draw(simd, processed, row, buffers),
    }
}

/// Fills `out` with the log-probability and rank of `token` and the `num_top` likeliest tokens.
fn report(
    simd: SimdLevel,
    out: &mut Sampled,
    row: &Row,
    token: u32,
    num_top: u32,
    buffers: &mut Buffers,
) {
    let scale = Scale::plain(row.largest);
    let total = passes::weigh(simd, row, &scale, &mut buffers.chunk_weights);
    let log_sum = (total as f64 / FIXED_POINT_ONE as f64).ln();
    let logprob = |logit: f32| (f64::from(logit) - f64::from(row.largest) - log_sum) as f32;
    let logit = row.logits.get(token as usize);
    out.token = token;
    out.finite = true;
    out.logprob = logit.map_or(f32::NEG_INFINITY, |&logit| logprob(logit));
    out.rank = logit.map_or(row.logits.len(), |&logit| row.num_likelier(token, logit)) as u32 + 1;
    if num_top > 0 {
        select::collect_top_k(simd, row, &scale, num_top as usize, buffers);
        buffers.candidates.sort_unstable_by_key(Candidate::key);
        let tokens = buffers.candidates.iter().map(Candidate::token);
        out.top.extend(tokens.map(|token| (token, logprob(row.logits[token as usize]))));
    }
}

/// A slice whose entries are written by different workers.
struct Disjoint<'a, T> {
    data: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: entries are handed out to one worker each (the contract of `get`), which is like sending them.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    fn new(slice: &'a mut [T]) -> Self {
        Self { data: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// # Safety
    /// No two references to one entry may be alive at once.
    #[allow(clippy::mut_from_ref, reason = "the contract above replaces the borrow checker's")]
    unsafe fn get(&self, index: usize) -> &'a mut T {
        assert!(index < self.len);
        // SAFETY: inside the borrowed slice; disjointness is the caller's promise.
        unsafe { &mut *self.data.add(index) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_thread_allocates_nothing() {
        let logits = crate::cases::random_f32(1, 5000);
        let mut scratch = Scratch::default();
        let mut out = Sampled::default();
        let row = SampleRow {
            temperature: 1.0,
            top_p: 0.9999,
            frequency_penalty: 0.1,
            output_tokens: &[4999],
            num_logprobs: Some(20),
            ..SampleRow::default()
        };
        let mut capacities = |scale: f32, row: &SampleRow| {
            let mut logits: Vec<f32> = logits.iter().map(|logit| logit * scale).collect();
            scratch.sample(SimdLevel::Portable, &mut out, &mut logits, row);
            let Scratch { raw, raw_maxima, maxima, counts, buffers } = &scratch;
            let Buffers { chunk_weights, candidates, ordered_maxima } = buffers;
            let floats = [raw, raw_maxima, maxima, ordered_maxima].map(Vec::capacity);
            let rest = [counts.capacity(), chunk_weights.capacity(), candidates.capacity()];
            (floats, rest, out.top.capacity())
        };
        let warm = capacities(30.0, &row); // few candidates
        assert_eq!(warm, capacities(0.1, &row)); // all tokens are candidates
        assert_eq!(warm, capacities(1.0, &SampleRow { top_k: 4000, ..row }));
    }
}
