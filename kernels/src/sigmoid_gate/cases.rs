//! Shapes that test and time `sigmoid_gate`.

use super::{reference, sigmoid_gate};
use crate::cases::{Case, Work, random_f32};
use crate::tensor::{View, ViewMut};

const SHAPES: [(usize, usize); 4] = [(1, 5), (17, 64), (3, 131), (256, 4096)];

pub fn cases() -> Vec<Case> {
    SHAPES.iter().map(|&(rows, cols)| case(rows, cols)).collect()
}

fn case(rows: usize, cols: usize) -> Case {
    let (x, gate) = (random_f32(61, rows * cols), random_f32(62, rows * cols));
    let gate: Vec<f32> = gate.iter().map(|x| x * 20.0).collect();
    let (start, case_gate) = (x.clone(), gate.clone());
    Case {
        op: "sigmoid_gate",
        name: format!("{rows}x{cols}"),
        work: Work { bytes: 12 * (rows * cols) as u64, operations: 4 * (rows * cols) as u64 },
        tolerance: 1e-6,
        cuda_tolerance: crate::cases::BF16_TOLERANCE,
        output_len: rows * cols,
        run: Box::new(move |device, output| {
            output.copy_from_slice(&start);
            let x = ViewMut::from_f32(output, rows, cols);
            sigmoid_gate(device, x, View::from_f32(&case_gate, rows, cols));
        }),
        reference: Box::new(move || reference::sigmoid_gate(&x, &gate)),
    }
}
