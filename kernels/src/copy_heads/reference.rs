//! The plain loop: the oracle of `copy_heads`.

use super::CopyHeads;

/// One row.
pub fn copy_heads(out: &mut [f32], x: &[f32], heads: CopyHeads) {
    for head in 0..heads.num_heads {
        for i in 0..heads.width {
            out[head * heads.out_stride + i] = x[head * heads.x_stride + i];
        }
    }
}
