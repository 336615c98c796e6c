//! The plain loop: the oracle of `embedding`.

/// `table`: rows of `hidden` float32.
pub fn embedding(ids: &[u32], table: &[f32], hidden: usize, scale: f32) -> Vec<f32> {
    ids.iter().flat_map(|&id| &table[id as usize * hidden..][..hidden]).map(|v| v * scale).collect()
}
