//! Shapes that test and time `add_rows`.

use super::{add_rows, reference};
use crate::cases::{Case, Input, Kind, Work, in_place, random_f32};
use crate::indices::Indices;

/// Rows of the table, columns, rows changed.
const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 1), (3, 7, 5), (65, 33, 2), (512, 384, 256)];

pub fn cases() -> Vec<Case> {
    let both = |&shape: &(usize, usize, usize)| [case(shape, true), case(shape, false)];
    SHAPES.iter().flat_map(both).collect()
}

fn case((num_rows, cols, n): (usize, usize, usize), has_rows: bool) -> Case {
    let (x, table) = (random_f32(41, n * cols), random_f32(42, num_rows * cols));
    let rows: Option<Vec<u32>> =
        has_rows.then(|| (0..n).map(|i| (i * 7 % num_rows) as u32).collect());
    let mut input = Input::new(Kind::Numbers, table.clone(), num_rows, cols);
    let (start, indices) = (x.clone(), rows.clone());
    Case {
        op: "add_rows",
        name: format!("{n}x{cols} of {num_rows}, rows={has_rows}"),
        work: Work { bytes: 12 * (n * cols) as u64, operations: (n * cols) as u64 },
        tolerance: 0.0,
        cuda_tolerance: 0.0,
        output_len: n * cols,
        run: Box::new(move |device, output| {
            output.copy_from_slice(&start);
            let table = input.on(device);
            in_place(device, Kind::Numbers, output, (n, cols), |x| {
                add_rows(device, x, table, indices.as_ref().map(Indices::from));
            });
        }),
        reference: Box::new(move || reference::add_rows(&x, &table, cols, rows.as_deref())),
    }
}
