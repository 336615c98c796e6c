//! `out[i] = x[rows[i]]`: the rows of a step that are sampled from.
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
pub mod reference;

use crate::device::Device;
use crate::tensor::{DType, View, ViewMut};

/// `out`: `[rows.len(), cols]` F32; `x`: `[any, cols]` F32; every entry of `rows` is below `x.rows()`.
pub fn gather_rows(device: &Device, out: ViewMut, x: View, rows: &[u32]) {
    assert_eq!((out.rows(), out.cols()), (rows.len(), x.cols()), "out");
    assert!(out.dtype() == DType::F32 && x.dtype() == DType::F32);
    assert!(rows.iter().all(|&row| (row as usize) < x.rows()), "a row beyond {}", x.rows());
    match device {
        Device::Cpu(cpu) => cpu::gather_rows(cpu, &out, x, rows),
        Device::Cuda(cuda) => match *cuda {},
        Device::Trace(log) => {
            log.push(format!("gather_rows {} of {}x{}", rows.len(), x.rows(), x.cols()));
        }
    }
}
