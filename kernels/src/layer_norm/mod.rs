//! Layer normalisation of the residual stream, alone or fused with the residual add.
//!
//! `out[r][i] = (x[r][i] − mean_j(x[r][j])) / sqrt(var_j(x[r][j]) + eps) · weight[i] + bias[i]` (Ba et al. 2016), in
//! float32.
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
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

/// What the residual stream holds afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// What was normalised.
    Sum,
    Norm,
}

/// `residual = norm(residual); out = residual`. `out`: `[rows, cols]` activations; `residual`: the same in F32.
pub fn layer_norm(device: &Device, out: ViewMut, residual: ViewMut, norm: LayerNorm) {
    run(device, "layer_norm", (out, residual), None, norm, Kept::Norm);
}

/// `residual += x; out = norm(residual)`: one pass over the residual stream, whose norm comes before a block. `out`, `x`:
/// `[rows, cols]` activations; `residual`: the same in F32.
pub fn add_layer_norm(device: &Device, out: ViewMut, residual: ViewMut, x: View, norm: LayerNorm) {
    run(device, "add_layer_norm", (out, residual), Some(x), norm, Kept::Sum);
}

/// `residual = norm(residual + x); out = residual`: as `add_layer_norm`, where the norm comes behind a block.
pub fn post_layer_norm(device: &Device, out: ViewMut, residual: ViewMut, x: View, norm: LayerNorm) {
    run(device, "post_layer_norm", (out, residual), Some(x), norm, Kept::Norm);
}

fn run(
    device: &Device,
    name: &str,
    (out, residual): (ViewMut, ViewMut),
    x: Option<View>,
    norm: LayerNorm,
    kept: Kept,
) {
    let (rows, cols) = (out.rows(), out.cols());
    assert_eq!((residual.rows(), residual.cols()), (rows, cols), "residual");
    assert_eq!(out.dtype(), device.activation_dtype(), "out");
    assert_eq!(residual.dtype(), DType::F32, "residual");
    if let Some(x) = &x {
        assert_eq!((x.rows(), x.cols()), (rows, cols), "x");
        assert_eq!(x.dtype(), device.activation_dtype(), "x");
    }
    for vector in [Some(norm.weight), norm.bias].into_iter().flatten() {
        assert_eq!((vector.rows(), vector.cols()), (1, cols), "weight or bias");
        assert_eq!(vector.dtype(), DType::F32, "weight or bias");
    }
    match device {
        Device::Cpu(cpu) => cpu::layer_norm(cpu, (&out, &residual), x, norm, kept),
        Device::Cuda(cuda) => cuda::layer_norm(cuda, (&out, &residual), x.as_ref(), norm, kept),
        Device::Trace(log) => log.push(format!("{name} {rows}x{cols}")),
    }
}
