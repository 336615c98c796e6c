//! `causal_conv` on the CPU: a task has some channels of one sequence and walks through its rows.

#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use super::MAX_TAPS;
use crate::cpu::math::{exp, mul_add, per_simd_level};
use crate::device::CpuDevice;
use crate::recurrent_layer::{NO_STATE, StateBatch};
use crate::tensor::{Tensor, View, ViewMut};

/// Channels of one task.
const PIECE: usize = 128;

pub(super) fn causal_conv(
    cpu: &CpuDevice,
    out: &ViewMut,
    x: View,
    weight: &Tensor,
    inputs: &ViewMut,
    batch: &StateBatch,
) {
    let (num_old, channels) = (weight.rows() - 1, weight.cols());
    let num_pieces = channels.div_ceil(PIECE);
    cpu.pool.run(batch.num_sequences() * num_pieces, &|task| {
        let (sequence, piece) = (task / num_pieces, task % num_pieces);
        let columns = piece * PIECE..channels.min((piece + 1) * PIECE);
        let cols = columns.len();
        let mut past = [0.0_f32; (MAX_TAPS - 1) * PIECE];
        let past = &mut past[..num_old * cols];
        for (index, segment) in batch.of_sequence(sequence).iter().enumerate() {
            // SAFETY: this task alone has these columns of the sequence's states and rows.
            let state = |slot: u32, old: usize| unsafe {
                let first = old * channels + columns.start;
                inputs.columns_f32_shared(slot as usize, first..first + cols)
            };
            if index == 0 && segment.from != NO_STATE {
                for (old, past) in past.chunks_exact_mut(cols).enumerate() {
                    past.copy_from_slice(state(segment.from, old));
                }
            }
            for row in segment.first_row as usize..(segment.first_row + segment.num_rows) as usize {
                let x = &x.row_f32(row)[columns.clone()];
                // SAFETY: as above.
                let out = unsafe { out.columns_f32_shared(row, columns.clone()) };
                convolve(cpu.simd, out, x, past, &weight.f32()[columns.start..], channels);
                past.copy_within(cols.., 0);
                past[(num_old - 1) * cols..].copy_from_slice(x);
            }
            for (old, past) in past.chunks_exact(cols).enumerate() {
                state(segment.to, old).copy_from_slice(past);
            }
        }
    });
}

per_simd_level! {
    /// One row; `weights` of one tap are `stride` apart from those of the next.
    fn convolve(out: &mut [f32], x: &[f32], past: &[f32], weights: &[f32], stride: usize) =
        convolve_body
}

#[inline(always)]
fn convolve_body<const FMA: bool>(
    out: &mut [f32],
    x: &[f32],
    past: &[f32],
    weights: &[f32],
    stride: usize,
) {
    let cols = x.len();
    out.fill(0.0);
    let num_old = past.len() / cols;
    for tap in 0..=num_old {
        let inputs = if tap < num_old { &past[tap * cols..(tap + 1) * cols] } else { x };
        let weights = &weights[tap * stride..tap * stride + cols];
        for ((out, &input), &weight) in out.iter_mut().zip(inputs).zip(weights) {
            *out = mul_add::<FMA>(input, weight, *out);
        }
    }
    for out in out {
        *out /= 1.0 + exp::<FMA>(-*out);
    }
}
