//! The gate of a feed-forward layer: `out[r][i] = silu(gate[r][i]) · up[r][i]` with `silu(x) = x / (1 + e⁻ˣ)`.
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
pub mod reference;

use crate::device::Device;
use crate::tensor::{DType, View, ViewMut};

/// `out`: `[rows, cols]` F32; `gate_up`: `[rows, 2·cols]` F32, the gate first.
pub fn silu_mul(device: &Device, out: ViewMut, gate_up: View) {
    assert_eq!((out.rows(), 2 * out.cols()), (gate_up.rows(), gate_up.cols()), "gate_up");
    assert!(out.dtype() == DType::F32 && gate_up.dtype() == DType::F32);
    match device {
        Device::Cpu(cpu) => cpu::silu_mul(cpu, &out, gate_up),
        Device::Cuda(cuda) => match *cuda {},
        Device::Trace(log) => log.push(format!("silu_mul {}x{}", out.rows(), out.cols())),
    }
}
