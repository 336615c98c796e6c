//! The activation of a feed-forward layer without a gate: `out[r][i] = activation(x[r][i])` (BERT, Devlin et al. 2018).
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
pub mod reference;

use crate::device::Device;
use crate::gated_mul::Activation;
use crate::tensor::{DType, View, ViewMut};

/// `out`, `x`: `[rows, cols]` F32. Not with an activation that needs a gate.
pub fn activate(device: &Device, out: ViewMut, x: View, activation: Activation) {
    assert_eq!((out.rows(), out.cols()), (x.rows(), x.cols()), "out");
    assert!(out.dtype() == DType::F32 && x.dtype() == DType::F32);
    let needs_gate = matches!(activation, Activation::ClampedSwiglu { .. });
    assert!(!needs_gate, "{activation:?} without a gate");
    match device {
        Device::Cpu(cpu) => cpu::activate(cpu, &out, x, activation),
        Device::Cuda(_) => crate::cuda::missing("activate"),
        Device::Trace(log) => {
            log.push(format!("activate {}x{} {activation:?}", out.rows(), out.cols()));
        }
    }
}
