//! The plain loop: the oracle of `gather_rows`.

/// `x`: rows of `cols` numbers, end to end.
pub fn gather_rows(x: &[f32], cols: usize, rows: &[u32]) -> Vec<f32> {
    rows.iter().flat_map(|&row| x[row as usize * cols..][..cols].to_vec()).collect()
}
