//! Copies whole blocks of keys and values inside one layer: copy-on-write of a shared block.

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::kv_layer::KvLayer;

/// Copies each (source, destination) in order; a later pair sees what an earlier one wrote.
/// Every block is below `cache.num_blocks()`.
pub fn copy_blocks(device: &Device, cache: &mut KvLayer, copies: &[(u32, u32)]) {
    let num_blocks = cache.num_blocks();
    let is_inside = |block: u32| (block as usize) < num_blocks;
    assert!(copies.iter().all(|&(from, to)| is_inside(from) && is_inside(to)), "of {num_blocks}");
    match device {
        Device::Cpu(_) => cpu::copy_blocks(cache, copies),
        Device::Cuda(_) => cuda::copy_blocks(cache, copies),
        Device::Trace(log) => log.push(format!("copy_blocks {}", copies.len())),
    }
}
