//! The plain loop: the oracle of `softcap`.

/// One element, in f64.
pub fn softcap(x: f32, cap: f32) -> f32 {
    (f64::from(cap) * (f64::from(x) / f64::from(cap)).tanh()) as f32
}
