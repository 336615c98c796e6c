//! The plain loop: the oracle of `gated_delta`.

use super::{GatedDeltaSpec, LENGTH_EPS};

/// What a layer learned.
pub struct Weights<'a> {
    pub rates: &'a [f32],
    pub dt_bias: &'a [f32],
    pub norm: &'a [f32],
    pub eps: f32,
}

/// One sequence from its beginning, in f64. `rows`: `[positions][qkv | z | b | a]`; returns `[positions][value_size]`.
pub fn gated_delta(rows: &[f32], spec: &GatedDeltaSpec, weights: &Weights) -> Vec<f32> {
    let &GatedDeltaSpec { num_key_heads, num_value_heads, key_dim, value_dim, .. } = spec;
    let cols = spec.qkv_size() + spec.value_size() + 2 * num_value_heads;
    let mut out = vec![0.0; rows.len() / cols * spec.value_size()];
    for head in 0..num_value_heads {
        let mut state = vec![vec![0.0_f64; value_dim]; key_dim];
        let shared = num_value_heads / num_key_heads;
        let key_head = if spec.is_tiled { head % num_key_heads } else { head / shared };
        for (row, out) in rows.chunks(cols).zip(out.chunks_mut(spec.value_size())) {
            let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
            let (q, k) = (key_head * key_dim, (num_key_heads + key_head) * key_dim);
            let q = unit(&row[q..q + key_dim], 1.0 / (key_dim as f64).sqrt());
            let k = unit(&row[k..k + key_dim], 1.0);
            let v = &row[2 * num_key_heads * key_dim + head * value_dim..][..value_dim];
            let z = &row[spec.qkv_size() + head * value_dim..][..value_dim];
            let (b, a) = row[spec.qkv_size() + spec.value_size()..].split_at(num_value_heads);
            let step = (1.0 + (a[head] + f64::from(weights.dt_bias[head])).exp()).ln();
            let decay = (f64::from(weights.rates[head]) * step).exp();
            let beta = sigmoid(b[head]);
            state.iter_mut().flatten().for_each(|s| *s *= decay);
            let mut o = vec![0.0; value_dim];
            for j in 0..value_dim {
                let recalled: f64 = (0..key_dim).map(|i| state[i][j] * k[i]).sum();
                let correction = beta * (v[j] - recalled);
                (0..key_dim).for_each(|i| state[i][j] += k[i] * correction);
                o[j] = (0..key_dim).map(|i| state[i][j] * q[i]).sum();
            }
            let mean: f64 = o.iter().map(|o| o * o).sum::<f64>() / value_dim as f64;
            let factor = 1.0 / (mean + f64::from(weights.eps)).sqrt();
            for j in 0..value_dim {
                let normed = o[j] * factor * f64::from(weights.norm[j]);
                out[head * value_dim + j] = (normed * z[j] * sigmoid(z[j])) as f32;
            }
        }
    }
    out
}

fn unit(x: &[f64], scale: f64) -> Vec<f64> {
    let sum: f64 = x.iter().map(|x| x * x).sum();
    x.iter().map(|x| x * scale / (sum + f64::from(LENGTH_EPS)).sqrt()).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
