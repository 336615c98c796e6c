//! Shapes that test and time `softcap`.

use super::{reference, softcap};
use crate::cases::{Case, F32_TOLERANCE, Kind, Work, in_place, random_f32};

const SHAPES: [(usize, usize, f32); 3] = [(1, 7, 5.0), (3, 20_000, 30.0), (64, 65_536, 30.0)];

pub fn cases() -> Vec<Case> {
    SHAPES.iter().map(|&(rows, cols, cap)| case(rows, cols, cap)).collect()
}

fn case(rows: usize, cols: usize, cap: f32) -> Case {
    // Small and far beyond the cap.
    let x: Vec<f32> = random_f32(51, rows * cols).iter().map(|x| x.powi(5) * 300.0).collect();
    let start = x.clone();
    let num_elements = (rows * cols) as u64;
    Case {
        op: "softcap",
        name: format!("{rows}x{cols} {cap}"),
        work: Work { bytes: 8 * num_elements, operations: 25 * num_elements },
        tolerance: 2e-6,
        cuda_tolerance: F32_TOLERANCE,
        output_len: rows * cols,
        run: Box::new(move |device, output| {
            output.copy_from_slice(&start);
            in_place(device, Kind::Numbers, output, (rows, cols), |x| softcap(device, x, cap));
        }),
        reference: Box::new(move || x.iter().map(|&x| reference::softcap(x, cap)).collect()),
    }
}
