//! The plain loop: the oracle of `embedding`.

/// `table`: rows of `hidden` float32, the first that of id `first`.
pub fn embedding(
    ids: &[u32],
    (table, first): (&[f32], usize),
    hidden: usize,
    scale: f32,
) -> Vec<f32> {
    let has = |id: usize| (first..first + table.len() / hidden).contains(&id);
    let row = |&id: &u32| match has(id as usize) {
        true => table[(id as usize - first) * hidden..][..hidden].to_vec(),
        false => vec![0.0; hidden],
    };
    ids.iter().flat_map(row).map(|v| v * scale).collect()
}
