//! The plain loop: the oracle of `copy_slots`.

/// `slots`: keys and values of each slot, copied in order.
pub fn copy_slots(slots: &mut [Vec<f32>], copies: &[(u32, u32)]) {
    for &(source, destination) in copies {
        let copy = slots[source as usize].clone();
        slots[destination as usize] = copy;
    }
}
