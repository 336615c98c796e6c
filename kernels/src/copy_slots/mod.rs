//! Copies the keys and values of single positions inside one layer: right drafts of a tree move to where a chain has them.

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::kv_layer::KvLayer;

/// Copies each (source, destination) slot (block · block_size + offset) of all heads in order; a later pair sees what an
/// earlier one wrote. Every slot is inside.
pub fn copy_slots(device: &Device, cache: &mut KvLayer, copies: &[(u32, u32)]) {
    let num_slots = cache.num_blocks() * cache.block_size();
    let is_inside = |slot: u32| (slot as usize) < num_slots;
    assert!(copies.iter().all(|&(from, to)| is_inside(from) && is_inside(to)), "of {num_slots}");
    match device {
        Device::Cpu(_) => cpu::copy_slots(cache, copies),
        Device::Cuda(_) => cuda::copy_slots(cache, copies),
        Device::Trace(log) => log.push(format!("copy_slots {}", copies.len())),
    }
}
