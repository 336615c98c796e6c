//! Shapes that test and time `activate`.

use super::{activate, reference};
use crate::cases::{
    BF16_TOLERANCE, Case, Input, Kind, Work, in_place, random_f32, rounded_to_bf16,
};
use crate::gated_mul::Activation;

const SHAPES: [(usize, usize); 5] = [(1, 1), (3, 7), (5, 65), (1, 5000), (512, 1536)];

pub fn cases() -> Vec<Case> {
    let activations = [Activation::Silu, Activation::Gelu, Activation::GeluTanh];
    let case = |&(rows, cols)| activations.map(|activation| case(rows, cols, activation));
    SHAPES.iter().flat_map(case).collect()
}

fn case(rows: usize, cols: usize, activation: Activation) -> Case {
    // Up to ±120, so that both ends of the exponential are met.
    let x = random_f32(22, rows * cols).iter().map(|x| x.powi(3) * 120.0).collect();
    let x = rounded_to_bf16(x);
    let mut input = Input::new(Kind::Activations, x.clone(), rows, cols);
    let num_elements = (rows * cols) as u64;
    Case {
        op: "activate",
        name: format!("{rows}x{cols} {activation:?}"),
        work: Work { bytes: 8 * num_elements, operations: 20 * num_elements },
        tolerance: 2e-6,
        cuda_tolerance: BF16_TOLERANCE,
        output_len: rows * cols,
        run: Box::new(move |device, output| {
            let x = input.view(device);
            in_place(device, Kind::Activations, output, (rows, cols), |out| {
                activate(device, out, x, activation);
            });
        }),
        reference: Box::new(move || {
            x.iter().map(|&x| reference::activate(x, activation)).collect()
        }),
    }
}
