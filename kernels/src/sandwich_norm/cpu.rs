//! `sandwich_norm` on the CPU: one task a row, a fixed order of additions.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

use super::SandwichNorm;
use crate::cpu::math::{inverse_root_mean_square, mul_add, per_simd_level};
use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

pub(super) fn sandwich_norm(
    cpu: &CpuDevice,
    out: &ViewMut,
    residual: &ViewMut,
    x: View,
    norm: SandwichNorm,
) {
    cpu.pool.run(x.rows(), &|row| {
        // SAFETY: each task writes its own row of either matrix.
        let (out, residual) = unsafe { (out.row_f32_shared(row), residual.row_f32_shared(row)) };
        row_body(cpu.simd, out, residual, x.row_f32(row), norm);
    });
}

per_simd_level! {
    fn row_body(
        out: &mut [f32],
        residual: &mut [f32],
        x: &[f32],
        norm: SandwichNorm<'_>,
    ) = row_body_of
}

#[inline(always)]
fn row_body_of<const FMA: bool>(
    out: &mut [f32],
    residual: &mut [f32],
    x: &[f32],
    norm: SandwichNorm<'_>,
) {
    let inverse = inverse_root_mean_square(x, norm.eps);
    for ((residual, &x), &weight) in residual.iter_mut().zip(x).zip(norm.post_weight.f32()) {
        *residual = mul_add::<FMA>(x * inverse, weight, *residual) * norm.scale;
    }
    let inverse = inverse_root_mean_square(residual, norm.eps);
    for ((out, &x), &weight) in out.iter_mut().zip(residual.iter()).zip(norm.weight.f32()) {
        *out = x * inverse * weight;
    }
}
