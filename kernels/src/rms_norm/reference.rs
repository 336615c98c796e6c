//! The plain loop: the oracle of `rms_norm`.

/// One row; returns `norm(x) · weight`. The sum runs in f64, so that only rounding separates the fast path from it.
pub fn rms_norm_row(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let sum: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    let scale = 1.0 / (sum / x.len() as f64 + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(&v, &w)| (f64::from(v) * scale) as f32 * w).collect()
}
