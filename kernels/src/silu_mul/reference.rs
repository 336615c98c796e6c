//! The plain loop: the oracle of `silu_mul`.

/// One element, in f64.
pub fn silu_mul(gate: f32, up: f32) -> f32 {
    let (gate, up) = (f64::from(gate), f64::from(up));
    (gate / (1.0 + (-gate).exp()) * up) as f32
}
