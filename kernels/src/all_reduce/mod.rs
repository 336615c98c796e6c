//! What the ranks of a tensor-parallel model tell each other (Shoeybi et al. 2019): `x = Σ_r x_r` on every rank, and the columns
//! that each rank made side by side on the first.
//!
//! On CPUs sums are taken in the order of the ranks, as small ones on GPUs that reach each other (`one_shot.cu`); others on GPUs in
//! an order of NCCL's. So all ranks have the same bits.
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
mod group;
mod one_shot;
pub mod reference;

use std::ops::Range;

use crate::device::Device;
use crate::tensor::{DType, ViewMut};
pub use cuda::GroupId;
pub use group::RankGroup;

/// `x`: `[rows, cols]` F32, or activations of a GPU without gaps between rows, of the same shape on every rank; afterwards the
/// sum of all. Every rank of `group` calls it at the same place of the same step. On GPUs it is only launched.
///
/// # Panics
/// When another rank failed, or on CPUs does not come in time: this rank's step cannot go on.
pub fn all_reduce(device: &Device, group: &RankGroup, x: ViewMut) {
    assert!(x.dtype() == DType::F32 || x.dtype() == device.activation_dtype(), "x");
    match device {
        Device::Cpu(cpu) => cpu::all_reduce(cpu, group, &x),
        Device::Cuda(cuda) => cuda::all_reduce(cuda, group, &x),
        Device::Trace(log) => log.push(format!("all_reduce {}x{}", x.rows(), x.cols())),
    }
}

/// `x`: `[rows, cols]` F32 of the same shape on every rank, of which a rank has made `columns`, its own; afterwards the
/// first rank has all, and on GPUs every rank. Called and failing as `all_reduce`.
pub fn gather_columns(device: &Device, group: &RankGroup, x: ViewMut, columns: Range<usize>) {
    assert_eq!(x.dtype(), DType::F32, "x");
    assert!(columns.end <= x.cols(), "{columns:?} of {}", x.cols());
    match device {
        Device::Cpu(cpu) => cpu::gather_columns(cpu, group, &x, columns),
        Device::Cuda(cuda) => cuda::gather_columns(cuda, group, &x, columns),
        Device::Trace(log) => {
            log.push(format!("gather_columns {}x{}, {columns:?}", x.rows(), x.cols()));
        }
    }
}
