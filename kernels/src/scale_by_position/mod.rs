//! `x[r] *= factors[positions[r]]`: queries that grow with their position, so that attention over long contexts stays
//! sharp (Nakanishi 2025).
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::indices::Indices;
use crate::tensor::{DType, Tensor, ViewMut};

/// `x`: `[positions.len(), cols]` activations; `factors`: `[1, num_positions]` F32, longer than every position.
pub fn scale_by_position(device: &Device, x: ViewMut, positions: Indices, factors: &Tensor) {
    assert_eq!(positions.len(), x.rows(), "positions");
    assert_eq!((x.dtype(), factors.dtype()), (device.activation_dtype(), DType::F32), "x, factors");
    assert_eq!(factors.rows(), 1, "factors");
    let is_known = |&position: &u32| (position as usize) < factors.cols();
    assert!(positions.iter().all(is_known), "a position beyond {}", factors.cols());
    match device {
        Device::Cpu(cpu) => cpu::scale_by_position(cpu, &x, positions.host(), factors.f32()),
        Device::Cuda(cuda) => cuda::scale_by_position(cuda, &x, positions, factors),
        Device::Trace(log) => log.push(format!("scale_by_position {}x{}", x.rows(), x.cols())),
    }
}
