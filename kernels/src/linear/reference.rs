//! The plain loop: the oracle of `linear`.

/// One row. `weight`: `[out_features, in_features]` float32 row after row. The sum runs in f64, so that only rounding
/// separates the fast path from it.
pub fn linear_row(x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let dot =
        |w: &[f32]| -> f64 { w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum() };
    weight
        .chunks_exact(x.len())
        .enumerate()
        .map(|(o, w)| (dot(w) + bias.map_or(0.0, |bias| f64::from(bias[o]))) as f32)
        .collect()
}
