//! `x = cap · tanh(x / cap)`: logits that cannot grow beyond `cap` (Bello et al. 2016; Gemma 2).
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::tensor::{DType, ViewMut};

/// `x`: `[rows, cols]` F32, changed in place; `cap` is above 0.
pub fn softcap(device: &Device, x: ViewMut, cap: f32) {
    assert!(x.dtype() == DType::F32 && cap > 0.0);
    match device {
        Device::Cpu(cpu) => cpu::softcap(cpu, &x, cap),
        Device::Cuda(cuda) => cuda::softcap(cuda, &x, cap),
        Device::Trace(log) => log.push(format!("softcap {}x{}, {cap}", x.rows(), x.cols())),
    }
}
