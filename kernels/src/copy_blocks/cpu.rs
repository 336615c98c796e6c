//! `copy_blocks` on the CPU: one memory copy a block; a step copies few blocks, so one thread does it.

use crate::kv_layer::KvLayer;

pub(super) fn copy_blocks(cache: &mut KvLayer, copies: &[(u32, u32)]) {
    cache.copy_blocks(copies);
}
