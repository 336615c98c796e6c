//! `rope_write_kv` on the CPU: a task has some rows.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use super::{HeadNorm, RopeStyle, RopeTable, RopeWriteKv};
use crate::cpu::math::{mul_add, per_simd_level};
use crate::device::CpuDevice;
use crate::kv_layer::KvLayer;
use crate::tensor::{Tensor, ViewMut};

/// Partial sums kept apart: fixes the order of additions on every machine.
const LANES: usize = 16;

pub(super) fn rope_write_kv(
    cpu: &CpuDevice,
    qkv: &ViewMut,
    cache: &mut KvLayer,
    args: &RopeWriteKv,
) {
    let head_dim = args.head_dim;
    let k_start = args.num_q_heads * head_dim;
    let v_start = k_start + args.num_kv_heads * head_dim;
    let writer = cache.writer(cpu.simd);
    let write_row = |row: usize| {
        // SAFETY: each task writes its own rows.
        let row_data = unsafe { qkv.row_f32_shared(row) };
        let (qk, v) = row_data.split_at_mut(v_start);
        let turn = args.rope.map(|rope| Turn::at(rope, args.positions[row]));
        transform(cpu.simd, &mut qk[..k_start], head_dim, turn, args.norm.map(|n| (n, n.q)));
        transform(cpu.simd, &mut qk[k_start..], head_dim, turn, args.norm.map(|n| (n, n.k)));
        if let Some((norm, weight)) = args.norm.and_then(|norm| Some((norm, norm.v?))) {
            transform(cpu.simd, v, head_dim, None, Some((norm, weight)));
        }
        let slot = args.slot_mapping[row];
        if slot == u32::MAX {
            return;
        }
        let heads = qk[k_start..].chunks_exact(head_dim).zip(v.chunks_exact(head_dim));
        for (kv_head, (key, value)) in heads.enumerate() {
            // SAFETY: slots are distinct (checked before), so this row of the page is this task's alone.
            unsafe { writer.write(slot, kv_head, key, value) };
        }
    };
    // Rows that are some microseconds of work.
    let smallest_task = (1 << 13) / qkv.cols().max(1);
    cpu.pool.run_ranges(qkv.rows(), smallest_task, &|rows| rows.for_each(write_row));
}

/// The cosines and sines of one position.
#[derive(Clone, Copy)]
struct Turn<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    style: RopeStyle,
}

impl<'a> Turn<'a> {
    fn at(rope: &'a RopeTable, position: u32) -> Self {
        let row = |table: &'a Tensor| table.view().row_f32(position as usize);
        Self { cos: row(&rope.cos), sin: row(&rope.sin), style: rope.style }
    }
}

per_simd_level! {
    /// Normalises and rotates every head of `heads`.
    fn transform(
        heads: &mut [f32],
        head_dim: usize,
        turn: Option<Turn<'_>>,
        norm: Option<(HeadNorm<'_>, &Tensor)>,
    ) = transform_body
}

#[inline(always)]
fn transform_body<const FMA: bool>(
    heads: &mut [f32],
    head_dim: usize,
    turn: Option<Turn<'_>>,
    norm: Option<(HeadNorm<'_>, &Tensor)>,
) {
    for head in heads.chunks_exact_mut(head_dim) {
        if let Some((norm, weight)) = norm {
            normalise(head, weight.f32(), norm.eps);
        }
        match turn {
            Some(turn) if turn.style == RopeStyle::Neox => {
                let (first, rest) = head.split_at_mut(turn.cos.len());
                let pairs = first.iter_mut().zip(rest).zip(turn.cos.iter().zip(turn.sin));
                pairs.for_each(|((x, y), (&cos, &sin))| rotate::<FMA>(x, y, cos, sin));
            }
            Some(turn) => {
                let pairs = head.chunks_exact_mut(2).zip(turn.cos.iter().zip(turn.sin));
                for (pair, (&cos, &sin)) in pairs {
                    let (x, y) = pair.split_at_mut(1);
                    rotate::<FMA>(&mut x[0], &mut y[0], cos, sin);
                }
            }
            None => {}
        }
    }
}

#[inline(always)]
fn rotate<const FMA: bool>(x: &mut f32, y: &mut f32, cos: f32, sin: f32) {
    (*x, *y) = (mul_add::<FMA>(*x, cos, -(*y * sin)), mul_add::<FMA>(*y, cos, *x * sin));
}

#[inline(always)]
fn normalise(head: &mut [f32], weight: &[f32], eps: f32) {
    let mut lanes = [0.0_f32; LANES];
    for chunk in head.chunks(LANES) {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane += x * x);
    }
    let scale = 1.0 / (lanes.iter().sum::<f32>() / head.len() as f32 + eps).sqrt();
    head.iter_mut().zip(weight).for_each(|(x, &weight)| *x = *x * scale * weight);
}
