//! Rows of a table, one for each token: `out[r] = table[ids[r]] · scale`. The table may also be the weight of `linear`
//! (tied embeddings).

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::indices::Indices;
use crate::linear::LinearWeight;
use crate::tensor::{DType, ViewMut};

/// `out`: `[ids.len(), in_features of table]` F32; every id is below `table.out_features()`.
pub fn embedding(device: &Device, out: ViewMut, ids: Indices, table: &LinearWeight, scale: f32) {
    assert_eq!((out.rows(), out.cols()), (ids.len(), table.in_features()), "out");
    assert!(out.dtype() == DType::F32);
    assert!(ids.iter().all(|&id| (id as usize) < table.out_features()), "token id out of range");
    match device {
        Device::Cpu(cpu) => cpu::embedding(cpu, &out, ids.host(), table, scale),
        Device::Cuda(cuda) => cuda::embedding(cuda, &out, ids, table, scale),
        Device::Trace(log) => log.push(format!("embedding {}x{}", out.rows(), out.cols())),
    }
}
