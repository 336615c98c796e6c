//! The plain loop: the oracle of `causal_conv`.

/// One sequence, in f64. `x`: `[positions][channels]` from its beginning; `weight`: `[taps][channels]`.
pub fn causal_conv(x: &[f32], weight: &[f32], channels: usize) -> Vec<f32> {
    let taps = weight.len() / channels;
    let mut out = Vec::with_capacity(x.len());
    for position in 0..x.len() / channels {
        for channel in 0..channels {
            let sum: f64 = (0..taps)
                .filter(|tap| position + tap + 1 >= taps)
                .map(|tap| {
                    let input = x[(position + tap + 1 - taps) * channels + channel];
                    f64::from(input) * f64::from(weight[tap * channels + channel])
                })
                .sum();
            out.push((sum / (1.0 + (-sum).exp())) as f32);
        }
    }
    out
}
