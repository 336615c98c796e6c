//! `rope_write_kv` on the CPU: tasks of neighbouring rows, each row read and written once.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use super::{RopeStyle, RopeTable, RopeWriteKv};
use crate::cpu::math::{inverse_root_mean_square, mul_add, per_simd_level};
use crate::device::CpuDevice;
use crate::kv_layer::{KvLayer, KvWriter};
use crate::tensor::{Tensor, ViewMut};

/// Numbers of `qkv` that the caller alone handles as fast as it could wake others (some microseconds).
const SMALL: usize = 16 << 10;

/// Tasks a thread, so that all end together.
const TASKS_PER_THREAD: usize = 4;

/// Rows a task: enough that few cache lines of keys are written by two threads.
const ROWS_PER_TASK: std::ops::RangeInclusive<usize> = 8..=64;

pub(super) fn rope_write_kv(
    cpu: &CpuDevice,
    qkv: &ViewMut,
    cache: Option<&mut KvLayer>,
    args: &RopeWriteKv,
) {
    let num_rows = qkv.rows();
    let call = Call { qkv, writer: cache.map(KvLayer::writer), args };
    if num_rows * qkv.cols() <= SMALL {
        rotate_and_write(cpu.simd, &call, 0, num_rows);
        return;
    }
    let even = num_rows / (cpu.pool.num_threads() * TASKS_PER_THREAD);
    let per_task = even.clamp(*ROWS_PER_TASK.start(), *ROWS_PER_TASK.end());
    cpu.pool.run(num_rows.div_ceil(per_task), &|task| {
        let start = task * per_task;
        rotate_and_write(cpu.simd, &call, start, num_rows.min(start + per_task));
    });
}

struct Call<'a> {
    qkv: &'a ViewMut<'a>,
    /// None: queries alone.
    writer: Option<KvWriter<'a>>,
    args: &'a RopeWriteKv<'a>,
}

per_simd_level! {
    /// Rows `start..end`, which no other thread may handle.
    fn rotate_and_write(call: &Call<'_>, start: usize, end: usize) = rotate_and_write_body
}

#[inline(always)]
fn rotate_and_write_body<const FMA: bool>(call: &Call, start: usize, end: usize) {
    let args = call.args;
    let head_dim = args.head_dim;
    let k_start = args.num_q_heads * head_dim;
    let v_start = k_start + args.num_kv_heads * head_dim;
    for row in start..end {
        // SAFETY: each row is one task's alone.
        let row_data = unsafe { call.qkv.row_f32_shared(row) };
        let (qk, v) = row_data.split_at_mut(v_start);
        let (q, k) = qk.split_at_mut(k_start);
        let turn = args.rope.map(|rope| Turn::at(rope, args.positions[row]));
        transform::<FMA>(q, head_dim, turn, args.norm.map(|norm| (norm.q.f32(), norm.eps)));
        transform::<FMA>(k, head_dim, turn, args.norm.map(|norm| (norm.k.f32(), norm.eps)));
        if let Some((weight, eps)) = args.norm.and_then(|norm| Some((norm.v?.f32(), norm.eps))) {
            transform::<FMA>(v, head_dim, None, Some((weight, eps)));
        }
        let (Some(writer), slot) = (&call.writer, args.slot_mapping[row]) else { continue };
        if slot == u32::MAX {
            continue;
        }
        let heads = k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim));
        for (kv_head, (key, value)) in heads.enumerate() {
            // SAFETY: slots are distinct (checked before), so this key and value are this task's alone.
            unsafe { writer.write::<FMA>(slot, kv_head, key, value) };
        }
    }
}

per_simd_level! {
    /// One head turned to `position`.
    pub(crate) fn rotate_head(head: &mut [f32], rope: &RopeTable, position: u32) = rotate_head_body
}

#[inline(always)]
fn rotate_head_body<const FMA: bool>(head: &mut [f32], rope: &RopeTable, position: u32) {
    let head_dim = head.len();
    transform::<FMA>(head, head_dim, Some(Turn::at(rope, position)), None);
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

/// Normalises and rotates every head of `heads`.
#[inline(always)]
fn transform<const FMA: bool>(
    heads: &mut [f32],
    head_dim: usize,
    turn: Option<Turn>,
    norm: Option<(&[f32], f32)>,
) {
    for head in heads.chunks_exact_mut(head_dim) {
        if let Some((weight, eps)) = norm {
            normalise(head, weight, eps);
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
    let scale = inverse_root_mean_square(head, eps);
    head.iter_mut().zip(weight).for_each(|(x, &weight)| *x = *x * scale * weight);
}
