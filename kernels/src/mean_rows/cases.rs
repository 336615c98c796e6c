//! Shapes that test and time `mean_rows`.

use super::{mean_rows, reference};
use crate::cases::{BF16_TOLERANCE, Case, Input, Kind, Work, in_place, random_activations};

/// Columns, and the lengths of the runs of rows.
const SHAPES: [(usize, &[usize]); 4] =
    [(1, &[1]), (7, &[3, 1, 5]), (65, &[40, 2]), (384, &[128, 1, 256, 100])];

pub fn cases() -> Vec<Case> {
    SHAPES.iter().map(|&(cols, lengths)| case(cols, lengths)).collect()
}

/// A row that belongs to no run lies between neighbours.
fn case(cols: usize, lengths: &'static [usize]) -> Case {
    let starts: Vec<u32> = (0..lengths.len())
        .map(|run| lengths[..run].iter().map(|len| len + 1).sum::<usize>() as u32)
        .collect();
    let ends: Vec<u32> =
        starts.iter().zip(lengths).map(|(start, &len)| start + len as u32).collect();
    let num_rows = lengths.iter().sum::<usize>() + lengths.len();
    let x = random_activations(43, num_rows * cols);
    let mut input = Input::new(Kind::Activations, x.clone(), num_rows, cols);
    let runs: Vec<(u32, u32)> = starts.iter().copied().zip(ends.iter().copied()).collect();
    Case {
        op: "mean_rows",
        name: format!("{} of {num_rows}x{cols}", lengths.len()),
        work: Work { bytes: 4 * (num_rows * cols) as u64, operations: (num_rows * cols) as u64 },
        tolerance: 2e-6,
        cuda_tolerance: BF16_TOLERANCE,
        output_len: lengths.len() * cols,
        run: Box::new(move |device, output| {
            let x = input.view(device);
            in_place(device, Kind::Activations, output, (lengths.len(), cols), |out| {
                mean_rows(device, out, x, (&starts).into(), (&ends).into());
            });
        }),
        reference: Box::new(move || {
            let rows = |&(start, end): &(u32, u32)| &x[start as usize * cols..end as usize * cols];
            runs.iter().flat_map(|run| reference::mean_of_rows(rows(run), cols)).collect()
        }),
    }
}
