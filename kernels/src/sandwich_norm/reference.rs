//! The plain loop: the oracle of `sandwich_norm`.

use crate::rms_norm::reference::rms_norm_row;

/// One row; returns the new residual and `out`.
pub fn sandwich_norm_row(
    residual: &[f32],
    x: &[f32],
    (post_weight, weight): (&[f32], &[f32]),
    scale: f32,
    eps: f32,
) -> (Vec<f32>, Vec<f32>) {
    let normalised = rms_norm_row(x, post_weight, eps);
    let sum: Vec<f32> = residual.iter().zip(normalised).map(|(r, x)| (r + x) * scale).collect();
    let out = rms_norm_row(&sum, weight, eps);
    (sum, out)
}
