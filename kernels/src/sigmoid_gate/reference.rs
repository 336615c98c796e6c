//! The plain loop: the oracle of `sigmoid_gate`.

/// In f64.
pub fn sigmoid_gate(x: &[f32], gate: &[f32]) -> Vec<f32> {
    let pairs = x.iter().zip(gate);
    pairs.map(|(&x, &gate)| (f64::from(x) / (1.0 + (-f64::from(gate)).exp())) as f32).collect()
}
