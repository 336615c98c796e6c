//! `copy_blocks` on a GPU: the driver's copies, one after the other.

use crate::kv_layer::KvLayer;

pub(super) fn copy_blocks(cache: &mut KvLayer, copies: &[(u32, u32)]) {
    cache.copy_blocks(copies);
}
