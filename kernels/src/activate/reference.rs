//! The plain loop: the oracle of `activate`.

use crate::gated_mul::{Activation, reference::gated_mul};

/// One element, in f64: what its gate would give with 1.
pub fn activate(x: f32, activation: Activation) -> f32 {
    gated_mul(x, 1.0, activation)
}
