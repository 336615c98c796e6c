//! The mean of some rows in a row: `out[s] = Σ_r x[r] / n` for the n rows `starts[s]..ends[s]` (mean pooling, Reimers &
//! Gurevych 2019).
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::indices::Indices;
use crate::tensor::{View, ViewMut};

/// `out`: `[starts.len(), cols]`, `x`: `[any, cols]`; activations; `starts[s] < ends[s] <= x.rows()`. Rows are added in order.
pub fn mean_rows(device: &Device, out: ViewMut, x: View, starts: Indices, ends: Indices) {
    assert_eq!((out.rows(), out.cols()), (starts.len(), x.cols()), "out");
    assert_eq!(starts.len(), ends.len(), "ends");
    assert_eq!([out.dtype(), x.dtype()], [device.activation_dtype(); 2], "out, x");
    let is_range = |(&start, &end): (&u32, &u32)| start < end && end as usize <= x.rows();
    assert!(starts.iter().zip(ends.iter()).all(is_range), "no rows, or rows beyond {}", x.rows());
    match device {
        Device::Cpu(cpu) => cpu::mean_rows(cpu, &out, x, starts.host(), ends.host()),
        Device::Cuda(cuda) => cuda::mean_rows(cuda, &out, &x, starts, ends),
        Device::Trace(log) => {
            log.push(format!("mean_rows {} of {}x{}", starts.len(), x.rows(), x.cols()));
        }
    }
}
