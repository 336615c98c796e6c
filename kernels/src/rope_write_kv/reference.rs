//! The plain loop: the oracle of `rope_write_kv`.

use super::RopeStyle;

/// RMS norm of one head in f64.
pub fn norm(head: &[f64], weight: &[f32], eps: f32) -> Vec<f64> {
    let mean = head.iter().map(|x| x * x).sum::<f64>() / head.len() as f64;
    let scale = 1.0 / (mean + f64::from(eps)).sqrt();
    head.iter().zip(weight).map(|(x, &weight)| x * scale * f64::from(weight)).collect()
}

/// One head rotated to `position` in f64.
pub fn rotate(
    head: &[f64],
    position: u32,
    inverse_frequencies: &[f32],
    attention_factor: f32,
    style: RopeStyle,
) -> Vec<f64> {
    let mut out = head.to_vec();
    let half = inverse_frequencies.len();
    for (i, &frequency) in inverse_frequencies.iter().enumerate() {
        let (first, second) = match style {
            RopeStyle::Neox => (i, i + half),
            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
        };
        let (sin, cos) = (f64::from(position) * f64::from(frequency)).sin_cos();
        let factor = f64::from(attention_factor);
        out[first] = factor * (head[first] * cos - head[second] * sin);
        out[second] = factor * (head[second] * cos + head[first] * sin);
    }
    out
}
