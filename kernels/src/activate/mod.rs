//! The activation of a feed-forward layer without a gate: `out[r][i] = activation(x[r][i])` (BERT, Devlin et al. 2018).
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::gated_mul::Activation;
use crate::tensor::{View, ViewMut};

/// `out`, `x`: `[rows, cols]` activations. Not with an activation that needs a gate.
pub fn activate(device: &Device, out: ViewMut, x: View, activation: Activation) {
    assert_eq!((out.rows(), out.cols()), (x.rows(), x.cols()), "out");
    assert_eq!([out.dtype(), x.dtype()], [device.activation_dtype(); 2], "out, x");
    let needs_gate = matches!(activation, Activation::ClampedSwiglu { .. });
    assert!(!needs_gate, "{activation:?} without a gate");
    match device {
        Device::Cpu(cpu) => cpu::activate(cpu, &out, x, activation),
        Device::Cuda(cuda) => cuda::activate(cuda, &out, &x, activation),
        Device::Trace(log) => {
            log.push(format!("activate {}x{} {activation:?}", out.rows(), out.cols()));
        }
    }
}
