//! Shapes that test and time `gated_mul`.

use super::{Activation, gated_mul, reference};
use crate::cases::{Case, Input, Kind, Work, in_place, random_f32, rounded_to_bf16};

const SHAPES: [(usize, usize); 5] = [(1, 1), (3, 7), (5, 65), (1, 5000), (512, 1536)];

pub fn cases() -> Vec<Case> {
    let clamped = Activation::ClampedSwiglu { alpha: 1.702, limit: 7.0 };
    let activations = [Activation::Silu, Activation::Gelu, Activation::GeluTanh, clamped];
    let case = |&(rows, cols)| activations.map(|activation| case(rows, cols, activation));
    SHAPES.iter().flat_map(case).collect()
}

fn case(rows: usize, cols: usize, activation: Activation) -> Case {
    // Up to ±120, so that both ends of the exponential are met.
    let gate_up = random_f32(21, rows * 2 * cols).iter().map(|x| x.powi(3) * 120.0).collect();
    let gate_up = rounded_to_bf16(gate_up);
    let mut input = Input::new(Kind::Activations, gate_up.clone(), rows, 2 * cols);
    let num_elements = (rows * cols) as u64;
    Case {
        op: "gated_mul",
        name: format!("{rows}x{cols} {activation:?}"),
        work: Work { bytes: 12 * num_elements, operations: 20 * num_elements },
        tolerance: 2e-6,
        cuda_tolerance: crate::cases::BF16_TOLERANCE,
        output_len: rows * cols,
        run: Box::new(move |device, output| {
            let gate_up = input.view(device);
            in_place(device, Kind::Activations, output, (rows, cols), |out| {
                gated_mul(device, out, gate_up, activation);
            });
        }),
        reference: Box::new(move || {
            let row = |row: &[f32]| {
                let (gate, up) = row.split_at(cols);
                let pairs = gate.iter().zip(up);
                pairs
                    .map(|(&gate, &up)| reference::gated_mul(gate, up, activation))
                    .collect::<Vec<_>>()
            };
            gate_up.chunks(2 * cols).flat_map(row).collect()
        }),
    }
}
