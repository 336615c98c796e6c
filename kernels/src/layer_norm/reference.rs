//! The plain loop: the oracle of `layer_norm`.

/// One row, in f64.
pub fn layer_norm_row(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32) -> Vec<f32> {
    let len = x.len() as f64;
    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / len;
    let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / len;
    let scale = 1.0 / (variance + f64::from(eps)).sqrt();
    let normalised = x.iter().zip(weight).enumerate().map(|(index, (&v, &w))| {
        let shift = bias.map_or(0.0, |bias| f64::from(bias[index]));
        ((f64::from(v) - mean) * scale * f64::from(w) + shift) as f32
    });
    normalised.collect()
}
