//! `out[r][h · out_stride + i] = x[r][h · x_stride + i]`: a part of each head from one layout into another.
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::tensor::{DType, View, ViewMut};

/// Which columns are copied.
#[derive(Clone, Copy, Debug)]
pub struct CopyHeads {
    pub num_heads: usize,
    /// Columns of a head.
    pub width: usize,
    /// Columns from one head to the next; the first begins at column 0.
    pub out_stride: usize,
    pub x_stride: usize,
}

/// `out`, `x`: activations or F32; as many rows, and columns up to the end of the last head at least.
pub fn copy_heads(device: &Device, out: ViewMut, x: View, heads: CopyHeads) {
    let CopyHeads { num_heads, width, out_stride, x_stride } = heads;
    let end = |stride: usize| num_heads.saturating_sub(1) * stride + width;
    assert_eq!(out.rows(), x.rows(), "rows");
    assert!(out_stride >= width, "heads of {width} columns overlap");
    assert!(out.cols() >= end(out_stride) && x.cols() >= end(x_stride), "{heads:?}");
    let is_known = |dtype: DType| dtype == device.activation_dtype() || dtype == DType::F32;
    assert!(is_known(out.dtype()), "out");
    assert!(is_known(x.dtype()), "x");
    match device {
        Device::Cpu(cpu) => cpu::copy_heads(cpu, &out, x, heads),
        Device::Cuda(cuda) => cuda::copy_heads(cuda, &out, &x, heads),
        Device::Trace(log) => {
            log.push(format!("copy_heads {} rows, {num_heads} heads of {width}", x.rows()));
        }
    }
}

/// `out = x`, in the type of `out`: either has activations or F32.
pub fn copy_rows(device: &Device, out: ViewMut, x: View) {
    assert_eq!(out.cols(), x.cols(), "columns");
    let width = x.cols();
    copy_heads(
        device,
        out,
        x,
        CopyHeads { num_heads: 1, width, out_stride: width, x_stride: width },
    );
}
