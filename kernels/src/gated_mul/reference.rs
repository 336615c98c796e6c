//! The plain loop: the oracle of `gated_mul`.

use super::Activation;

/// One element, in f64.
pub fn gated_mul(gate: f32, up: f32, activation: Activation) -> f32 {
    let (mut gate, mut up) = (f64::from(gate), f64::from(up));
    let activated = match activation {
        Activation::ClampedSwiglu { alpha, limit } => {
            let limit = f64::from(limit);
            (gate, up) = (gate.min(limit), up.clamp(-limit, limit) + 1.0);
            gate / (1.0 + (-f64::from(alpha) * gate).exp())
        }
        Activation::Silu => gate / (1.0 + (-gate).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044_715 * gate.powi(3));
            gate / 2.0 * (1.0 + inner.tanh())
        }
    };
    (activated * up) as f32
}
