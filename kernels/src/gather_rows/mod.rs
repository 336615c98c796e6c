//! `out[i] = x[rows[i]]`: the rows of a step that are sampled from.
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::indices::Indices;
use crate::tensor::{View, ViewMut};

/// `out`: `[rows.len(), cols]`; `x`: `[any, cols]` of the same type (on the CPU F32); every entry of `rows` is below `x.rows()`.
pub fn gather_rows(device: &Device, out: ViewMut, x: View, rows: Indices) {
    assert_eq!((out.rows(), out.cols()), (rows.len(), x.cols()), "out");
    assert_eq!(out.dtype(), x.dtype(), "out");
    assert!(rows.iter().all(|&row| (row as usize) < x.rows()), "a row beyond {}", x.rows());
    match device {
        Device::Cpu(cpu) => cpu::gather_rows(cpu, &out, x, rows.host()),
        Device::Cuda(cuda) => cuda::gather_rows(cuda, &out, &x, rows),
        Device::Trace(log) => {
            log.push(format!("gather_rows {} of {}x{}", rows.len(), x.rows(), x.cols()));
        }
    }
}
