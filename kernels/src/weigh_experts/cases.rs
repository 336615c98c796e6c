//! Shapes that test and time `weigh_experts`.

use super::{reference, weigh_experts};
use crate::cases::{Case, Kind, Work, in_place, random_activations};
use crate::device::Device;
use crate::route_experts::cases::some_routing;

/// Rows, columns, experts, experts of a row.
const SHAPES: [(usize, usize, usize, usize); 4] =
    [(1, 1, 1, 1), (3, 7, 4, 2), (64, 65, 8, 3), (256, 1536, 16, 1)];

pub fn cases() -> Vec<Case> {
    SHAPES.into_iter().map(case).collect()
}

fn case((n, cols, num_experts, num_chosen): (usize, usize, usize, usize)) -> Case {
    let len = n * num_chosen * cols;
    let x = random_activations(55, len);
    let input = x.clone();
    Case {
        op: "weigh_experts",
        name: format!("{n}x{cols}, {num_chosen} of {num_experts}"),
        work: Work { bytes: 8 * len as u64, operations: len as u64 },
        tolerance: 0.0,
        cuda_tolerance: crate::cases::BF16_TOLERANCE,
        output_len: len,
        run: Box::new(move |device, output| {
            let routing = some_routing(device, n, num_experts, num_chosen);
            output.copy_from_slice(&input);
            in_place(device, Kind::Activations, output, (n * num_chosen, cols), |x| {
                weigh_experts(device, x, &routing);
            });
        }),
        reference: Box::new(move || {
            let routing = some_routing(&Device::cpu(1), n, num_experts, num_chosen);
            let mut out = vec![0.0; len];
            for row in 0..n {
                for (&place, &weight) in routing.places_of(row).iter().zip(routing.weights_of(row))
                {
                    let columns = place as usize * cols..(place as usize + 1) * cols;
                    let weighed = reference::weigh_place(&x[columns.clone()], weight);
                    out[columns].copy_from_slice(&weighed);
                }
            }
            out
        }),
    }
}
