//! `copy_slots` on the CPU: number by number, since the channels of a key lie apart; a step copies few slots.

use crate::kv_layer::KvLayer;

pub(super) fn copy_slots(cache: &mut KvLayer, copies: &[(u32, u32)]) {
    cache.copy_slots(copies);
}
