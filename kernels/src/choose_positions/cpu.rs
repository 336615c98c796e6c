//! `choose_positions` on the CPU: a task has one query; scores of some positions and all heads are one small product.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use std::cell::RefCell;

use super::IndexSpec;
use crate::attention::AttentionBatch;
use crate::attention::kernels::{BLOCK_ROWS, PageMatrix, Product, STRIP, multiply, widen};
use crate::cpu::SimdLevel;
use crate::cpu::math::{mul_add, per_simd_level};
use crate::device::CpuDevice;
use crate::index_layer::IndexLayer;
use crate::tensor::{Tensor, View};

/// Working memory of one thread; grows to the longest context once.
#[derive(Default)]
struct Scratch {
    /// `[head_dim][heads, padded to STRIP]`
    queries: Vec<f32>,
    /// `[heads, padded to STRIP]`
    weights: Vec<f32>,
    /// `[BLOCK_ROWS][head_dim]`
    keys: Vec<f32>,
    /// `[BLOCK_ROWS][heads, padded to STRIP]`
    products: Vec<f32>,
    /// A position in the low half; in the high half what is the lower the higher its score.
    candidates: Vec<u64>,
}

pub(super) fn choose_positions(
    cpu: &CpuDevice,
    out: &mut Tensor,
    queries: View,
    weights: View,
    keys: &IndexLayer,
    batch: &AttentionBatch,
    spec: &IndexSpec,
) {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    let out = out.first_rows_mut(queries.rows());
    let starts = batch.query_start_loc.host();
    cpu.pool.run(queries.rows(), &|row| {
        let sequence = starts.partition_point(|&start| start as usize <= row) - 1;
        let after = starts[sequence + 1] as usize - row;
        let num_positions = batch.context_lens[sequence] as usize + 1 - after;
        // SAFETY: each task has a row of its own.
        let out = unsafe { out.row_u32_shared(row) };
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.reserve(spec, num_positions);
            if num_positions <= spec.top_k {
                out.iter_mut().zip(0..num_positions as u32).for_each(|(out, at)| *out = at);
                return;
            }
            scratch.load(queries.row_f32(row), weights.row_f32(row), spec);
            scratch.score(cpu.simd, keys, batch.block_table(sequence), num_positions, spec);
            scratch.choose(out);
        });
    });
}

impl Scratch {
    /// Makes room when a thread first comes here, and seldom later: contexts grow by a token a step.
    fn reserve(&mut self, spec: &IndexSpec, num_positions: usize) {
        let &IndexSpec { num_heads, head_dim, .. } = spec;
        let padded = num_heads.next_multiple_of(STRIP);
        self.queries.resize(head_dim * padded, 0.0);
        self.weights.resize(padded, 0.0);
        self.keys.resize(BLOCK_ROWS * head_dim, 0.0);
        self.products.resize(BLOCK_ROWS * padded, 0.0);
        self.candidates.clear();
        self.candidates.reserve(num_positions.next_multiple_of(4096));
    }

    fn load(&mut self, queries: &[f32], weights: &[f32], spec: &IndexSpec) {
        let &IndexSpec { num_heads, head_dim, .. } = spec;
        let padded = num_heads.next_multiple_of(STRIP);
        self.queries.fill(0.0);
        for (head, query) in queries.chunks_exact(head_dim).enumerate() {
            let column = self.queries[head..].iter_mut().step_by(padded);
            column.zip(query).for_each(|(out, &x)| *out = x);
        }
        self.weights.fill(0.0);
        self.weights[..num_heads].copy_from_slice(weights);
    }

    /// Leaves every position in `candidates`.
    fn score(
        &mut self,
        simd: SimdLevel,
        keys: &IndexLayer,
        block_table: &[u32],
        num_positions: usize,
        spec: &IndexSpec,
    ) {
        let block_size = keys.block_size();
        let mut position = 0;
        while position < num_positions {
            let (index, offset) = (position / block_size, position % block_size);
            let count = BLOCK_ROWS.min(block_size - offset).min(num_positions - position);
            let slot = block_table[index] as usize * block_size + offset;
            self.multiply(simd, keys, (slot, count), spec.head_dim);
            let padded = self.weights.len();
            for (index, products) in self.products.chunks_exact(padded).take(count).enumerate() {
                let mut score = 0.0;
                weigh(simd, &mut score, products, &self.weights);
                self.candidates.push(candidate(position + index, score));
            }
            position += count;
        }
    }

    /// `products[i][h] = key i · query h`, of `count` keys from `slot` on.
    fn multiply(
        &mut self,
        simd: SimdLevel,
        keys: &IndexLayer,
        (slot, count): (usize, usize),
        head_dim: usize,
    ) {
        let padded = self.weights.len();
        let page = PageMatrix {
            pointer: keys.bytes(slot, count).as_ptr(),
            dtype: keys.dtype(),
            rows: count,
            cols: head_dim,
            stride: head_dim,
        };
        let product = Product {
            a: self.keys.as_ptr(),
            a_stride: head_dim,
            b: self.queries.as_ptr(),
            b_stride: padded,
            c: self.products.as_mut_ptr(),
            c_stride: padded,
            num_rows: count,
            num_cols: padded,
            depth: head_dim,
            rescale: std::ptr::null(),
        };
        // SAFETY: `bytes` has all keys of the page; `load` made room for `BLOCK_ROWS` of them and their products.
        unsafe {
            widen(simd, &page, self.keys.as_mut_ptr(), head_dim);
            multiply(simd, &product);
        }
    }

    /// The best candidates, ascending.
    fn choose(&mut self, out: &mut [u32]) {
        let (best, ..) = self.candidates.select_nth_unstable(out.len());
        out.iter_mut().zip(best).for_each(|(out, &mut candidate)| *out = candidate as u32);
        out.sort_unstable();
    }
}

/// Numbers whose order is that of falling scores, then of rising positions. Adding 0 turns −0 into 0.
fn candidate(position: usize, score: f32) -> u64 {
    let bits = (score + 0.0).to_bits();
    let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(!rising) << 32 | position as u64
}

per_simd_level! {
    /// `score = Σ_h weight[h] · max(0, product[h])`, in lanes that are added up at the end.
    fn weigh(score: &mut f32, products: &[f32], weights: &[f32]) = weigh_body
}

#[inline(always)]
fn weigh_body<const FMA: bool>(score: &mut f32, products: &[f32], weights: &[f32]) {
    let (products, _) = products.as_chunks::<STRIP>();
    let (weights, _) = weights.as_chunks::<STRIP>();
    let mut sums = [0.0; STRIP];
    for (products, weights) in products.iter().zip(weights) {
        for ((sum, &product), &weight) in sums.iter_mut().zip(products).zip(weights) {
            *sum = mul_add::<FMA>(weight, if product > 0.0 { product } else { 0.0 }, *sum);
        }
    }
    for half in [8, 4, 2, 1] {
        (0..half).for_each(|lane| sums[lane] += sums[lane + half]);
    }
    *score = sums[0];
}
