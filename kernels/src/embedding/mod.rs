//! Rows of a table, one for each token: `out[r] = table[ids[r]] · scale`. The table may also be the weight of `linear`
//! (tied embeddings), and a rank may have some of its rows only: others are 0 there.

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::indices::Indices;
use crate::linear::LinearWeight;
use crate::tensor::{DType, ViewMut};

/// `out`: `[ids.len(), in_features of table]` F32. The table's first row is that of id `first`.
pub fn embedding(
    device: &Device,
    out: ViewMut,
    ids: Indices,
    (table, first): (&LinearWeight, usize),
    scale: f32,
) {
    assert_eq!((out.rows(), out.cols()), (ids.len(), table.in_features()), "out");
    assert!(out.dtype() == DType::F32);
    match device {
        Device::Cpu(cpu) => cpu::embedding(cpu, &out, ids.host(), (table, first), scale),
        Device::Cuda(cuda) => cuda::embedding(cuda, &out, ids, (table, first), scale),
        Device::Trace(log) => log.push(format!("embedding {}x{}", out.rows(), out.cols())),
    }
}
