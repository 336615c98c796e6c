//! Root mean square normalisation, alone or fused with the residual add.
//!
//! `out[r][i] = x[r][i] / sqrt(mean_j(x[r][j]²) + eps) · weight[i]` (Zhang & Sennrich 2019), in float32. On CUDA `x` of
//! `add_rms_norm` and `out` of both are BF16.

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

pub(crate) use cuda::Rows;

use crate::device::Device;
use crate::tensor::{DType, Tensor, View, ViewMut};

/// `out = norm(x) · weight`. `out`: `[rows, cols]` activations; `x`: the same or F32; `weight`: `[1, cols]` F32.
pub fn rms_norm(device: &Device, out: ViewMut, x: View, weight: &Tensor, eps: f32) {
    check(device, &out, &x, weight);
    assert!(x.dtype() == DType::F32 || x.dtype() == device.activation_dtype(), "x");
    match device {
        Device::Cpu(cpu) => cpu::rms_norm(cpu, out, x, weight.f32(), eps),
        Device::Cuda(cuda) => cuda::rms_norm(cuda, &out, &x, weight, eps),
        Device::Trace(log) => log.push(format!("rms_norm {}x{}", x.rows(), x.cols())),
    }
}

/// `residual += x; out = norm(residual) · weight`: one pass over the residual stream.
/// `out`, `x`: `[rows, cols]` activations; `residual`: the same in F32; `weight`: `[1, cols]` F32.
pub fn add_rms_norm(
    device: &Device,
    out: ViewMut,
    residual: ViewMut,
    x: View,
    weight: &Tensor,
    eps: f32,
) {
    check(device, &out, &x, weight);
    assert_eq!(x.dtype(), device.activation_dtype(), "x");
    assert_eq!(residual.dtype(), DType::F32, "residual");
    assert_eq!((residual.rows(), residual.cols()), (x.rows(), x.cols()), "residual");
    match device {
        Device::Cpu(cpu) => cpu::add_rms_norm(cpu, out, residual, x, weight.f32(), eps),
        Device::Cuda(cuda) => cuda::add_rms_norm(cuda, &out, &residual, &x, weight, eps),
        Device::Trace(log) => log.push(format!("add_rms_norm {}x{}", x.rows(), x.cols())),
    }
}

/// The arguments of `add_rms_norm`, for ops that make its rows on their way.
pub struct AddNorm<'a> {
    pub out: ViewMut<'a>,
    pub residual: ViewMut<'a>,
    pub x: View<'a>,
    pub weight: &'a Tensor,
    pub eps: f32,
}

fn check(device: &Device, out: &ViewMut, x: &View, weight: &Tensor) {
    assert_eq!((out.rows(), out.cols()), (x.rows(), x.cols()), "out");
    assert_eq!((weight.rows(), weight.cols()), (1, x.cols()), "weight");
    assert_eq!(weight.dtype(), DType::F32, "weight");
    assert_eq!(out.dtype(), device.activation_dtype(), "out");
}
