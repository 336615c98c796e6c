//! The plain loop: the oracle of `mean_rows`.

/// The mean of the rows of `cols` numbers that `x` holds end to end, in f64.
pub fn mean_of_rows(x: &[f32], cols: usize) -> Vec<f32> {
    let num_rows = (x.len() / cols) as f64;
    let column = |column: usize| x.iter().skip(column).step_by(cols).map(|&x| f64::from(x));
    (0..cols).map(|index| (column(index).sum::<f64>() / num_rows) as f32).collect()
}
