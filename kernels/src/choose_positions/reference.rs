//! The plain loop: the oracle of `choose_positions`.

/// One query in f64. `queries`: `[heads][head_dim]`; `keys`: those of all positions that it sees.
pub fn choose_positions(
    queries: &[f32],
    weights: &[f32],
    keys: &[Vec<f32>],
    top_k: usize,
) -> Vec<u32> {
    let score = |key: &Vec<f32>| -> f64 {
        let heads = queries.chunks(key.len()).zip(weights);
        let products = heads.map(|(query, &weight)| {
            let pairs = query.iter().zip(key);
            let product: f64 = pairs.map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
            f64::from(weight) * product.max(0.0)
        });
        products.sum()
    };
    let scores: Vec<f64> = keys.iter().map(score).collect();
    let mut positions: Vec<u32> = (0..keys.len() as u32).collect();
    positions.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
    positions.truncate(top_k);
    positions.sort_unstable();
    positions
}
