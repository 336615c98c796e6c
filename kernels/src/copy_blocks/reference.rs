//! The plain loop: the oracle of `copy_blocks`.

/// `blocks`: the contents of each block, copied in order.
pub fn copy_blocks(blocks: &mut [Vec<f32>], copies: &[(u32, u32)]) {
    for &(source, destination) in copies {
        let copy = blocks[source as usize].clone();
        blocks[destination as usize] = copy;
    }
}
