//! Shapes that test and time `gather_rows`.

use super::{gather_rows, reference};
use crate::cases::{Case, Work, random_f32};
use crate::tensor::{View, ViewMut};

/// Rows of the source, columns, rows gathered.
const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 1), (3, 7, 5), (65, 33, 0), (512, 576, 32)];

pub fn cases() -> Vec<Case> {
    SHAPES.iter().map(|&(num_rows, cols, gathered)| case(num_rows, cols, gathered)).collect()
}

fn case(num_rows: usize, cols: usize, gathered: usize) -> Case {
    let x = random_f32(31, num_rows * cols);
    let rows: Vec<u32> = (0..gathered).map(|i| (i * 7 % num_rows) as u32).collect();
    let (input, indices) = (x.clone(), rows.clone());
    Case {
        op: "gather_rows",
        name: format!("{gathered} of {num_rows}x{cols}"),
        work: Work { bytes: 8 * (gathered * cols) as u64, operations: 0 },
        tolerance: 0.0,
        output_len: gathered * cols,
        run: Box::new(move |device, output| {
            let out = ViewMut::from_f32(output, gathered, cols);
            gather_rows(device, out, View::from_f32(&input, num_rows, cols), &indices);
        }),
        reference: Box::new(move || reference::gather_rows(&x, cols, &rows)),
    }
}
