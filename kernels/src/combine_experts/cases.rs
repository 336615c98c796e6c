//! Shapes that test and time `combine_experts`.

use super::{SharedExpert, combine_experts, reference};
use crate::cases::{Case, Input, Kind, Work, in_place, random_activations, random_f32};
use crate::device::Device;
use crate::route_experts::cases::some_routing;

/// Rows, columns, experts, experts of a row.
const SHAPES: [(usize, usize, usize, usize); 5] =
    [(1, 1, 1, 1), (3, 7, 4, 2), (5, 65, 8, 8), (1, 2880, 32, 4), (256, 576, 16, 3)];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in SHAPES {
        for kind in 0..4 {
            cases.push(case(shape, kind != 1, kind > 1, kind == 3));
        }
    }
    cases
}

fn case(
    (n, cols, num_experts, num_chosen): (usize, usize, usize, usize),
    weighted: bool,
    with_shared: bool,
    with_gate: bool,
) -> Case {
    let num_places = n * num_chosen;
    let x = random_activations(51, num_places * cols);
    let shared = random_activations(52, n * cols);
    let gate: Vec<f32> = random_f32(53, n).iter().map(|x| 3.0 * x).collect();
    let mut inputs = Input::new(Kind::Activations, x.clone(), num_places, cols);
    let mut shared_input = Input::new(Kind::Activations, shared.clone(), n, cols);
    let mut gate_input = Input::new(Kind::Numbers, gate.clone(), n, 1);
    Case {
        op: "combine_experts",
        name: format!("{n}x{cols}, {num_chosen} of {num_experts}, {weighted} {with_gate}"),
        work: Work {
            bytes: 4 * ((num_places + n) * cols) as u64,
            operations: 2 * (num_places * cols) as u64,
        },
        tolerance: 2e-6,
        cuda_tolerance: crate::cases::BF16_TOLERANCE,
        output_len: n * cols,
        run: Box::new(move |device, output| {
            let routing = some_routing(device, n, num_experts, num_chosen);
            let shared = with_shared.then(|| SharedExpert {
                out: shared_input.view(device),
                gate: with_gate.then(|| gate_input.view(device)),
            });
            let x = inputs.view(device);
            in_place(device, Kind::Activations, output, (n, cols), |out| {
                combine_experts(device, out, x, &routing, weighted, shared);
            });
        }),
        reference: Box::new(move || {
            let routing = some_routing(&Device::cpu(1), n, num_experts, num_chosen);
            let row = |row: usize| {
                let places = routing.places_of(row).iter().zip(routing.weights_of(row));
                let experts: Vec<_> = places
                    .map(|(&place, &weight)| {
                        let weight = if weighted { weight } else { 1.0 };
                        (weight, &x[place as usize * cols..][..cols])
                    })
                    .collect();
                let gate = with_gate.then_some(gate[row]);
                let shared = with_shared.then(|| (gate, &shared[row * cols..][..cols]));
                reference::combine_row(&experts, shared)
            };
            (0..n).flat_map(row).collect()
        }),
    }
}
