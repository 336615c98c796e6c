//! The residual add of a block whose output is normalised too (Ding et al. 2021), and the norm before the next block:
//! `residual = (residual + norm(x) · post_weight) · scale; out = norm(residual) · weight`, each norm as in `rms_norm`.
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::tensor::{DType, Tensor, View, ViewMut};

/// What the rows of one call share.
#[derive(Clone, Copy)]
pub struct SandwichNorm<'a> {
    /// Of the norm over `x`: `[1, cols]` F32.
    pub post_weight: &'a Tensor,
    /// Multiplies the new residual; 1 in most models.
    pub scale: f32,
    /// Of the norm over the new residual: `[1, cols]` F32.
    pub weight: &'a Tensor,
    pub eps: f32,
}

/// `out`, `x`: `[rows, cols]` activations; `residual`: the same or F32.
pub fn sandwich_norm(
    device: &Device,
    out: ViewMut,
    residual: ViewMut,
    x: View,
    norm: SandwichNorm,
) {
    let shape = (x.rows(), x.cols());
    assert_eq!((out.rows(), out.cols()), shape, "out");
    assert_eq!((residual.rows(), residual.cols()), shape, "residual");
    let activations = device.activation_dtype();
    assert!(residual.dtype() == DType::F32 || residual.dtype() == activations, "residual");
    assert_eq!([out.dtype(), x.dtype()], [activations; 2], "out, x");
    for weight in [norm.post_weight, norm.weight] {
        assert_eq!((weight.rows(), weight.cols()), (1, x.cols()), "weight");
        assert_eq!(weight.dtype(), DType::F32, "weight");
    }
    match device {
        Device::Cpu(cpu) => cpu::sandwich_norm(cpu, &out, &residual, x, norm),
        Device::Cuda(cuda) => cuda::sandwich_norm(cuda, &out, &residual, &x, norm),
        Device::Trace(log) => log.push(trace_line(&x, norm.scale)),
    }
}

fn trace_line(x: &View, scale: f32) -> String {
    let scale = if scale == 1.0 { String::new() } else { format!(", scale {scale}") };
    format!("sandwich_norm {}x{}{scale}", x.rows(), x.cols())
}
