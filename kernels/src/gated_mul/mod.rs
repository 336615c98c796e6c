//! The gate of a feed-forward layer (Shazeer 2020): `out[r][i] = activation(gate[r][i]) · up[r][i]`.
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
pub mod reference;

use crate::device::Device;
use crate::tensor::{DType, View, ViewMut};

/// What the gate goes through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x / (1 + e⁻ˣ)` (SwiGLU).
    Silu,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³)))` (Hendrycks & Gimpel 2016; GeGLU).
    GeluTanh,
    /// `g / (1 + e^(−alpha·g)) · (u + 1)` with g = min(gate, limit) and u = up within ±limit (gpt-oss).
    ClampedSwiglu { alpha: f32, limit: f32 },
}

/// The arguments of `gated_mul`, for ops that make its rows on their way.
pub struct Gated<'a> {
    pub out: ViewMut<'a>,
    pub gate_up: View<'a>,
    pub activation: Activation,
}

/// `out`: `[rows, cols]` F32; `gate_up`: `[rows, 2·cols]` F32, the gate first.
pub fn gated_mul(device: &Device, out: ViewMut, gate_up: View, activation: Activation) {
    assert_eq!((out.rows(), 2 * out.cols()), (gate_up.rows(), gate_up.cols()), "gate_up");
    assert!(out.dtype() == DType::F32 && gate_up.dtype() == DType::F32);
    match device {
        Device::Cpu(cpu) => cpu::gated_mul(cpu, &out, gate_up, activation),
        Device::Cuda(_) => crate::cuda::missing("gated_mul"),
        Device::Trace(log) => {
            log.push(format!("gated_mul {}x{} {activation:?}", out.rows(), out.cols()));
        }
    }
}
