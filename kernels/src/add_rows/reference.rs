//! The plain loop: the oracle of `add_rows`.

/// `x`, `table`: rows of `cols` numbers, end to end.
pub fn add_rows(x: &[f32], table: &[f32], cols: usize, rows: Option<&[u32]>) -> Vec<f32> {
    let sum = x.chunks(cols).enumerate().flat_map(|(index, x)| {
        let row = rows.map_or(0, |rows| rows[index] as usize);
        x.iter().zip(&table[row * cols..][..cols]).map(|(x, added)| x + added)
    });
    sum.collect()
}
