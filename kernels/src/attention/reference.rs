//! The plain loop: the oracle of `attention`.

use super::AttentionSpec;

/// One query head at `position`, in f64; `sink` is its head's. `keys`, `values`: `[positions][head_dim]` of its KV head, without pages.
pub fn attention_head(
    query: &[f32],
    position: usize,
    keys: &[f32],
    values: &[f32],
    spec: &AttentionSpec,
    sink: Option<f32>,
) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let sees = |&other: &usize| match (spec.causal, spec.window) {
        (true, _) if other > position => false,
        (true, Some(window)) => position - other < window as usize,
        (false, Some(window)) => position.abs_diff(other) <= window as usize / 2,
        (_, None) => {
            spec.chunk.is_none_or(|chunk| other / chunk as usize == position / chunk as usize)
        }
    };
    let seen: Vec<usize> = (0..keys.len() / query.len()).filter(sees).collect();
    let scores: Vec<f64> = seen
        .iter()
        .map(|&index| f64::from(spec.scale) * dot(query, row(keys, index, query.len())))
        .map(|score| match spec.softcap {
            Some(softcap) => f64::from(softcap) * (score / f64::from(softcap)).tanh(),
            None => score,
        })
        .collect();
    let sink = sink.map(f64::from);
    let all = || scores.iter().copied().chain(sink);
    let maximum = all().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = all().map(|score| (score - maximum).exp()).sum();
    let mut out = vec![0.0_f64; query.len()];
    for (index, score) in seen.into_iter().zip(scores) {
        let probability = (score - maximum).exp() / sum;
        let value = row(values, index, query.len());
        out.iter_mut().zip(value).for_each(|(out, value)| *out += probability * f64::from(*value));
    }
    out.into_iter().map(|x| x as f32).collect()
}

fn row(rows: &[f32], index: usize, len: usize) -> &[f32] {
    &rows[index * len..][..len]
}
