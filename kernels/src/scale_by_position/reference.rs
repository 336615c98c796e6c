//! The plain loop: the oracle of `scale_by_position`.

/// `x`: rows of `cols` float32.
pub fn scale_by_position(x: &[f32], cols: usize, positions: &[u32], factors: &[f32]) -> Vec<f32> {
    let rows = x.chunks(cols).zip(positions);
    rows.flat_map(|(row, &p)| row.iter().map(move |v| v * factors[p as usize])).collect()
}
