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
        Activation::Gelu => gate * normal_distribution(gate),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044_715 * gate.powi(3));
            gate / 2.0 * (1.0 + inner.tanh())
        }
    };
    (activated * up) as f32
}

/// Φ(x), the share of a normal distribution below x: `erfc(−x/√2) / 2`, without loss where it is small.
fn normal_distribution(x: f64) -> f64 {
    let y = x.abs() / std::f64::consts::SQRT_2;
    let above = if y < 3.0 { (1.0 - erf_series(y)) / 2.0 } else { erfc_fraction(y) / 2.0 };
    if x < 0.0 { above } else { 1.0 - above }
}

/// erf by its Taylor series (Abramowitz & Stegun 7.1.5), for y below 3.
fn erf_series(y: f64) -> f64 {
    let (mut power, mut sum) = (y, y);
    for n in 1..100 {
        power *= -y * y / f64::from(n);
        sum += power / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

/// 1 − erf by its continued fraction (Abramowitz & Stegun 7.1.14), for y from 3 on.
fn erfc_fraction(y: f64) -> f64 {
    let denominator = (1..60).rev().fold(y, |rest, n| y + f64::from(n) / 2.0 / rest);
    (-y * y).exp() / denominator / std::f64::consts::PI.sqrt()
}
