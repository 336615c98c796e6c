//! `x *= sigmoid(gate)`: an output that each channel can hold back (Qiu et al. 2025, arXiv 2505.06708).
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::tensor::{View, ViewMut};

/// `x`, `gate`: `[rows, cols]` activations.
pub fn sigmoid_gate(device: &Device, x: ViewMut, gate: View) {
    assert_eq!((x.rows(), x.cols()), (gate.rows(), gate.cols()), "gate");
    assert!([x.dtype(), gate.dtype()] == [device.activation_dtype(); 2]);
    match device {
        Device::Cpu(cpu) => cpu::sigmoid_gate(cpu, &x, gate),
        Device::Cuda(cuda) => cuda::sigmoid_gate(cuda, &x, &gate),
        Device::Trace(log) => log.push(format!("sigmoid_gate {}x{}", x.rows(), x.cols())),
    }
}
