//! `combine_experts` on the CPU: a task has some pieces of rows.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use super::SharedExpert;
use crate::cpu::math::{exp, mul_add, per_simd_level};
use crate::device::CpuDevice;
use crate::route_experts::ExpertRouting;
use crate::tensor::{View, ViewMut};

/// Columns of a piece, so that one row keeps several threads busy.
const PIECE_COLS: usize = 1024;

/// Numbers read that are some microseconds of work.
const SMALLEST_TASK: usize = 32 << 10;

pub(super) fn combine_experts(
    cpu: &CpuDevice,
    out: &ViewMut,
    x: View,
    routing: &ExpertRouting,
    weighted: bool,
    shared: Option<SharedExpert>,
) {
    let cols = out.cols();
    let pieces_per_row = cols.div_ceil(PIECE_COLS);
    let numbers = PIECE_COLS.min(cols) * routing.num_chosen();
    let smallest = SMALLEST_TASK.div_ceil(numbers.max(1));
    cpu.pool.run_ranges(out.rows() * pieces_per_row, smallest, &|pieces| {
        for piece in pieces {
            let (row, part) = (piece / pieces_per_row, piece % pieces_per_row);
            let range = part * PIECE_COLS..cols.min((part + 1) * PIECE_COLS);
            // SAFETY: each task writes its own columns of its rows.
            let out = unsafe { out.columns_f32_shared(row, range.clone()) };
            match shared {
                None => out.fill(0.0),
                Some(SharedExpert { out: shared, gate }) => {
                    let gate =
                        gate.map_or(1.0, |gate| 1.0 / (1.0 + exp::<false>(-gate.row_f32(row)[0])));
                    multiply(cpu.simd, out, &shared.row_f32(row)[range.clone()], gate);
                }
            }
            let experts = routing.places_of(row).iter().zip(routing.weights_of(row));
            for (&place, &weight) in experts {
                let weight = if weighted { weight } else { 1.0 };
                add(cpu.simd, out, &x.row_f32(place as usize)[range.clone()], weight);
            }
        }
    });
}

per_simd_level! {
    fn multiply(out: &mut [f32], x: &[f32], factor: f32) = multiply_body
}

#[inline(always)]
fn multiply_body<const FMA: bool>(out: &mut [f32], x: &[f32], factor: f32) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = x * factor;
    }
}

per_simd_level! {
    fn add(out: &mut [f32], x: &[f32], weight: f32) = add_body
}

#[inline(always)]
fn add_body<const FMA: bool>(out: &mut [f32], x: &[f32], weight: f32) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = mul_add::<FMA>(weight, x, *out);
    }
}
