//! Shapes that test and time `gather_rows`.

use super::{gather_rows, reference};
use crate::cases::{Case, Input, Kind, Work, in_place, random_activations};
use crate::indices::Indices;

/// Rows of the source, columns, rows gathered.
const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 1), (3, 7, 5), (65, 33, 0), (512, 576, 32)];

pub fn cases() -> Vec<Case> {
    SHAPES.iter().map(|&(num_rows, cols, gathered)| case(num_rows, cols, gathered)).collect()
}

fn case(num_rows: usize, cols: usize, gathered: usize) -> Case {
    let x = random_activations(31, num_rows * cols);
    let rows: Vec<u32> = (0..gathered).map(|i| (i * 7 % num_rows) as u32).collect();
    let mut input = Input::new(Kind::Activations, x.clone(), num_rows, cols);
    let indices = rows.clone();
    Case {
        op: "gather_rows",
        name: format!("{gathered} of {num_rows}x{cols}"),
        work: Work { bytes: 8 * (gathered * cols) as u64, operations: 0 },
        tolerance: 0.0,
        cuda_tolerance: 0.0,
        output_len: gathered * cols,
        run: Box::new(move |device, output| {
            let x = input.view(device);
            in_place(device, Kind::Activations, output, (gathered, cols), |out| {
                gather_rows(device, out, x, Indices::from(&indices));
            });
        }),
        reference: Box::new(move || reference::gather_rows(&x, cols, &rows)),
    }
}
