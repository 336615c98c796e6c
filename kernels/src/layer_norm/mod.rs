//! Layer normalisation, alone or fused with the residual add.
//!
//! `out[r][i] = (x[r][i] − mean_j(x[r][j])) / sqrt(var_j(x[r][j]) + eps) · weight[i] + bias[i]` (Ba et al. 2016), in
//! float32.
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
pub mod reference;

use crate::device::Device;
use crate::tensor::{DType, Tensor, View, ViewMut};

/// What multiplies and shifts a normalised row.
#[derive(Clone, Copy)]
pub struct LayerNorm<'a> {
    /// `[1, cols]` F32.
    pub weight: &'a Tensor,
    /// The same; none: 0.
    pub bias: Option<&'a Tensor>,
    pub eps: f32,
}

/// `out = norm(x)`. `out`, `x`: `[rows, cols]` F32.
pub fn layer_norm(device: &Device, out: ViewMut, x: View, norm: LayerNorm) {
    check(&out, &x, norm);
    match device {
        Device::Cpu(cpu) => cpu::layer_norm(cpu, &out, x, norm),
        Device::Cuda(_) => crate::cuda::missing("layer_norm"),
        Device::Trace(log) => log.push(format!("layer_norm {}x{}", x.rows(), x.cols())),
    }
}

/// `residual += x; out = norm(residual)`: one pass over the residual stream. All `[rows, cols]` F32.
pub fn add_layer_norm(device: &Device, out: ViewMut, residual: ViewMut, x: View, norm: LayerNorm) {
    check(&out, &x, norm);
    assert_eq!((residual.rows(), residual.cols()), (x.rows(), x.cols()), "residual");
    assert_eq!(residual.dtype(), DType::F32, "residual");
    match device {
        Device::Cpu(cpu) => cpu::add_layer_norm(cpu, &out, &residual, x, norm),
        Device::Cuda(_) => crate::cuda::missing("layer_norm"),
        Device::Trace(log) => log.push(format!("add_layer_norm {}x{}", x.rows(), x.cols())),
    }
}

fn check(out: &ViewMut, x: &View, norm: LayerNorm) {
    assert_eq!((out.rows(), out.cols()), (x.rows(), x.cols()), "out");
    assert!(out.dtype() == DType::F32 && x.dtype() == DType::F32);
    for vector in [Some(norm.weight), norm.bias].into_iter().flatten() {
        assert_eq!((vector.rows(), vector.cols()), (1, x.cols()), "weight or bias");
        assert_eq!(vector.dtype(), DType::F32, "weight or bias");
    }
}
