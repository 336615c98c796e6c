//! Shapes that test and time `sigmoid_gate`.

use super::{reference, sigmoid_gate};
use crate::cases::{Case, Input, Kind, Work, in_place, random_activations};

const SHAPES: [(usize, usize); 4] = [(1, 5), (17, 64), (3, 131), (256, 4096)];

pub fn cases() -> Vec<Case> {
    SHAPES.iter().map(|&(rows, cols)| case(rows, cols)).collect()
}

fn case(rows: usize, cols: usize) -> Case {
    let (x, gate) = (random_activations(61, rows * cols), random_activations(62, rows * cols));
    let gate: Vec<f32> = gate.iter().map(|x| x * 16.0).collect();
    let start = x.clone();
    let mut case_gate = Input::new(Kind::Activations, gate.clone(), rows, cols);
    Case {
        op: "sigmoid_gate",
        name: format!("{rows}x{cols}"),
        work: Work { bytes: 12 * (rows * cols) as u64, operations: 4 * (rows * cols) as u64 },
        tolerance: 1e-6,
        cuda_tolerance: crate::cases::BF16_TOLERANCE,
        output_len: rows * cols,
        run: Box::new(move |device, output| {
            output.copy_from_slice(&start);
            in_place(device, Kind::Activations, output, (rows, cols), |x| {
                sigmoid_gate(device, x, case_gate.view(device));
            });
        }),
        reference: Box::new(move || reference::sigmoid_gate(&x, &gate)),
    }
}
