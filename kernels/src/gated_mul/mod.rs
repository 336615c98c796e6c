//! The gate of a feed-forward layer (Shazeer 2020): `out[r][i] = activation(gate[r][i]) · up[r][i]`.
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

pub(crate) use cpu::{gelu, gelu_tanh};

use crate::device::Device;
use crate::tensor::{View, ViewMut};

/// What the gate goes through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x / (1 + e⁻ˣ)` (SwiGLU).
    Silu,
    /// `x · Φ(x) = x/2 · (1 + erf(x/√2))` (Hendrycks & Gimpel 2016), as BERT has it.
    Gelu,
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

/// `out`: `[rows, cols]`, `gate_up`: `[rows, 2·cols]`, the gate first; activations.
pub fn gated_mul(device: &Device, out: ViewMut, gate_up: View, activation: Activation) {
    assert_eq!((out.rows(), 2 * out.cols()), (gate_up.rows(), gate_up.cols()), "gate_up");
    assert_eq!([out.dtype(), gate_up.dtype()], [device.activation_dtype(); 2], "out, gate_up");
    match device {
        Device::Cpu(cpu) => cpu::gated_mul(cpu, &out, gate_up, activation),
        Device::Cuda(cuda) => cuda::gated_mul(cuda, &out, &gate_up, activation),
        Device::Trace(log) => {
            log.push(format!("gated_mul {}x{} {activation:?}", out.rows(), out.cols()));
        }
    }
}
