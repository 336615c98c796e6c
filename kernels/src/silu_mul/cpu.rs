//! `silu_mul` on the CPU: a task has some pieces of rows; elements do not depend on each other.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use crate::cpu::math::{exp, per_simd_level};
use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

/// Columns of a piece, so that one row of a wide layer keeps several threads busy.
const PIECE_COLS: usize = 2048;

/// Pieces that are some microseconds of work.
const SMALLEST_TASK: usize = 4;

pub(super) fn silu_mul(cpu: &CpuDevice, out: &ViewMut, gate_up: View) {
    let cols = out.cols();
    let pieces_per_row = cols.div_ceil(PIECE_COLS);
    cpu.pool.run_ranges(out.rows() * pieces_per_row, SMALLEST_TASK, &|pieces| {
        for piece in pieces {
            let (row, part) = (piece / pieces_per_row, piece % pieces_per_row);
            let range = part * PIECE_COLS..cols.min((part + 1) * PIECE_COLS);
            let (gate, up) = gate_up.row_f32(row).split_at(cols);
            // SAFETY: each task writes its own columns of its rows.
            let out = unsafe { out.columns_f32_shared(row, range.clone()) };
            row_part(cpu.simd, out, &gate[range.clone()], &up[range]);
        }
    });
}

per_simd_level! {
    fn row_part(out: &mut [f32], gate: &[f32], up: &[f32]) = row_part_body
}

#[inline(always)]
fn row_part_body<const FMA: bool>(out: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp::<FMA>(-gate)) * up;
    }
}
