//! `copy_slots` on a GPU: the driver's copies, head by head.

use crate::kv_layer::KvLayer;

pub(super) fn copy_slots(cache: &mut KvLayer, copies: &[(u32, u32)]) {
    cache.copy_slots(copies);
}
