//! `gated_delta` on the CPU: a task has one value head of one sequence and walks through its rows, so that a prompt in
//! one piece, in many, or token by token gives the same bits.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use super::{GatedDelta, LENGTH_EPS};
use crate::cpu::math::{exp, inverse_root_mean_square, mul_add, per_simd_level};
use crate::device::CpuDevice;
use crate::recurrent_layer::{NO_STATE, StateBatch, StateSegment};
use crate::tensor::{View, ViewMut};

/// Rows whose q and k a task scales.
const ROWS_PER_TASK: usize = 8;

pub(super) fn gated_delta(
    cpu: &CpuDevice,
    out: &ViewMut,
    qkv: &ViewMut,
    (z, ba): (View, View),
    args: &GatedDelta,
    matrices: &ViewMut,
    batch: &StateBatch,
) {
    let spec = args.spec;
    cpu.pool.run(qkv.rows().div_ceil(ROWS_PER_TASK), &|task| {
        let first = task * ROWS_PER_TASK;
        for row in first..qkv.rows().min(first + ROWS_PER_TASK) {
            let keys = spec.num_key_heads * spec.key_dim;
            // SAFETY: each task writes rows of its own.
            let (q, k) = unsafe { qkv.columns_f32_shared(row, 0..2 * keys) }.split_at_mut(keys);
            let scale = 1.0 / (spec.key_dim as f32).sqrt();
            q.chunks_exact_mut(spec.key_dim).for_each(|q| scale_to(cpu.simd, q, scale));
            k.chunks_exact_mut(spec.key_dim).for_each(|k| scale_to(cpu.simd, k, 1.0));
        }
    });
    let call = Call { cpu, out, qkv: qkv.as_view(), z, ba, args, matrices };
    cpu.pool.run(batch.num_sequences() * spec.num_value_heads, &|task| {
        let (sequence, head) = (task / spec.num_value_heads, task % spec.num_value_heads);
        for segment in batch.of_sequence(sequence) {
            call.run_segment(head, segment);
        }
    });
}

struct Call<'a> {
    cpu: &'a CpuDevice,
    out: &'a ViewMut<'a>,
    qkv: View<'a>,
    z: View<'a>,
    ba: View<'a>,
    args: &'a GatedDelta<'a>,
    matrices: &'a ViewMut<'a>,
}

impl Call<'_> {
    fn run_segment(&self, head: usize, segment: &StateSegment) {
        let spec = self.args.spec;
        let len = spec.key_dim * spec.value_dim;
        // SAFETY: this task alone has this head of the sequence's states.
        let state = |slot: u32| unsafe {
            self.matrices.columns_f32_shared(slot as usize, head * len..(head + 1) * len)
        };
        let matrix = state(segment.to);
        match segment.from {
            NO_STATE => matrix.fill(0.0),
            from if from == segment.to => {}
            from => matrix.copy_from_slice(state(from)),
        }
        let first = segment.first_row as usize;
        for row in first..first + segment.num_rows as usize {
            self.run_row(head, row, matrix);
        }
    }

    fn run_row(&self, head: usize, row: usize, matrix: &mut [f32]) {
        let spec = self.args.spec;
        let (keys, key_head) = (spec.num_key_heads * spec.key_dim, spec.key_head(head));
        let (q, rest) = self.qkv.row_f32(row).split_at(keys);
        let (k, v) = rest.split_at(keys);
        let key_columns = key_head * spec.key_dim..(key_head + 1) * spec.key_dim;
        let columns = head * spec.value_dim..(head + 1) * spec.value_dim;
        let (b, a) = self.ba.row_f32(row).split_at(spec.num_value_heads);
        let step = softplus(a[head] + self.args.dt_bias.f32()[head]);
        let decay = (self.args.rates.f32()[head] * step).exp();
        let beta = 1.0 / (1.0 + (-b[head]).exp());
        // SAFETY: this task alone has this head of the sequence's rows.
        let out = unsafe { self.out.columns_f32_shared(row, columns.clone()) };
        let (q, k) = (&q[key_columns.clone()], &k[key_columns]);
        delta_step(self.cpu.simd, matrix, q, k, &v[columns.clone()], [decay, beta], out);
        let z = &self.z.row_f32(row)[columns];
        norm_and_gate(self.cpu.simd, out, z, self.args.norm.f32(), self.args.eps);
    }
}

fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

per_simd_level! {
    /// To length `scale`.
    fn scale_to(x: &mut [f32], scale: f32) = scale_to_body
}

#[inline(always)]
fn scale_to_body<const FMA: bool>(x: &mut [f32], scale: f32) {
    // 1/√(sum + eps), of means.
    let len = x.len() as f32;
    let factor = scale * inverse_root_mean_square(x, LENGTH_EPS / len) / len.sqrt();
    for x in x {
        *x *= factor;
    }
}

per_simd_level! {
    /// One token of one head: `matrix` is `[key_dim][value_dim]`.
    fn delta_step(
        matrix: &mut [f32], q: &[f32], k: &[f32], v: &[f32], gates: [f32; 2], out: &mut [f32],
    ) = delta_step_body
}

/// Columns of the matrix do not meet, and each takes the same path whatever the width.
#[inline(always)]
fn delta_step_body<const FMA: bool>(
    matrix: &mut [f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    gates: [f32; 2],
    out: &mut [f32],
) {
    let mut first = 0;
    while first + 64 <= v.len() {
        delta_columns::<FMA, 64>(matrix, first, q, k, v, gates, out);
        first += 64;
    }
    while first + 16 <= v.len() {
        delta_columns::<FMA, 16>(matrix, first, q, k, v, gates, out);
        first += 16;
    }
    while first < v.len() {
        delta_columns::<FMA, 1>(matrix, first, q, k, v, gates, out);
        first += 1;
    }
}

#[inline(always)]
fn delta_columns<const FMA: bool, const WIDTH: usize>(
    matrix: &mut [f32],
    first: usize,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    [decay, beta]: [f32; 2],
    out: &mut [f32],
) {
    let value_dim = v.len();
    let mut recalled = [0.0_f32; WIDTH];
    for (row, &k) in matrix.chunks_exact(value_dim).zip(k) {
        let row: &[f32; WIDTH] = row[first..first + WIDTH].try_into().expect("so many columns");
        for i in 0..WIDTH {
            recalled[i] = mul_add::<FMA>(row[i], k, recalled[i]);
        }
    }
    let mut correction = [0.0_f32; WIDTH];
    for i in 0..WIDTH {
        correction[i] = beta * (v[first + i] - decay * recalled[i]);
    }
    let mut sum = [0.0_f32; WIDTH];
    for ((row, &k), &q) in matrix.chunks_exact_mut(value_dim).zip(k).zip(q) {
        let row: &mut [f32; WIDTH] =
            (&mut row[first..first + WIDTH]).try_into().expect("so many columns");
        for i in 0..WIDTH {
            row[i] = mul_add::<FMA>(k, correction[i], row[i] * decay);
            sum[i] = mul_add::<FMA>(row[i], q, sum[i]);
        }
    }
    out[first..first + WIDTH].copy_from_slice(&sum);
}

per_simd_level! {
    fn norm_and_gate(x: &mut [f32], z: &[f32], weight: &[f32], eps: f32) = norm_and_gate_body
}

#[inline(always)]
fn norm_and_gate_body<const FMA: bool>(x: &mut [f32], z: &[f32], weight: &[f32], eps: f32) {
    let factor = inverse_root_mean_square(x, eps);
    for ((x, &z), &weight) in x.iter_mut().zip(z).zip(weight) {
        *x = *x * factor * weight * (z / (1.0 + exp::<FMA>(-z)));
    }
}
