//! `x[place(r, e)] *= weight[r][e]`: the weight of an expert on what it reads (Llama 4), or on what a linear layer made of
//! that.
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::route_experts::ExpertRouting;
use crate::tensor::ViewMut;

/// `x`: `[places, cols]` activations.
pub fn weigh_experts(device: &Device, x: ViewMut, routing: &ExpertRouting) {
    assert_eq!(x.rows(), routing.num_places(), "x");
    assert_eq!(x.dtype(), device.activation_dtype(), "x");
    match device {
        Device::Cpu(cpu) => cpu::weigh_experts(cpu, &x, routing),
        Device::Cuda(cuda) => cuda::weigh_experts(cuda, &x, routing),
        Device::Trace(log) => log.push(format!("weigh_experts {}x{}", x.rows(), x.cols())),
    }
}
