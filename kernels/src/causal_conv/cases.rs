//! Shapes that test and time `causal_conv`.

use super::{causal_conv, reference};
use crate::cases::{Case, Input, Kind, Work, in_place, random_activations, random_f32};
use crate::gated_delta::pieces::Pieces;
use crate::recurrent_layer::{RecurrentLayer, StateShape};

pub fn cases() -> Vec<Case> {
    [
        ("one", &[&[1][..]][..], 4, 16),
        ("mixed", &[&[1, 1, 5], &[3], &[2, 17], &[40, 1]], 4, 130),
        ("taps", &[&[1, 1, 1, 1, 9], &[8]], 7, 257),
        ("taps", &[&[1, 3, 1, 9], &[8]], 6, 66),
        ("two taps", &[&[1, 2], &[3, 1]], 2, 33),
        ("decode", &[&[1][..]; 32], 4, 8192),
        ("prefill", &[&[256]], 4, 8192),
    ]
    .into_iter()
    .map(|(name, steps, taps, channels)| case(name, steps, taps, channels))
    .collect()
}

fn case(name: &'static str, steps: &[&[usize]], taps: usize, channels: usize) -> Case {
    let (pieces, num_sequences) = (Pieces::new(steps), steps.len());
    let rows = pieces.num_rows();
    let (x, weight) = (random_activations(81, rows * channels), random_f32(82, taps * channels));
    let shape = StateShape { taps, channels, num_value_heads: 1, key_dim: 1, value_dim: 1 };
    let mut weights = Input::new(Kind::Numbers, weight.clone(), taps, channels);
    let (case_x, case_pieces) = (x.clone(), pieces.clone());
    Case {
        op: "causal_conv",
        name: format!("{name} {rows}x{channels}, {taps} taps"),
        work: Work {
            bytes: (8 * rows * channels + 8 * num_sequences * (taps - 1) * channels) as u64,
            operations: (2 * rows * channels * taps) as u64,
        },
        tolerance: 1e-5,
        cuda_tolerance: crate::cases::BF16_TOLERANCE,
        output_len: rows * channels,
        run: Box::new(move |device, output| {
            let states = RecurrentLayer::new(device, case_pieces.num_slots(), &shape);
            let mut states = states.expect("a small memory");
            for step in case_pieces.steps() {
                let (rows, range) =
                    (step.rows.len(), step.rows.start * channels..step.rows.end * channels);
                let x = case_x[range.clone()].to_vec();
                let mut x = Input::new(Kind::Activations, x, rows, channels);
                let (x, weight) = (x.view(device), weights.on(device));
                let shape = (rows, channels);
                in_place(device, Kind::Activations, &mut output[range], shape, |out| {
                    causal_conv(device, out, x, weight, &mut states, &step.batch());
                });
            }
        }),
        reference: Box::new(move || {
            pieces.by_sequence(&x, channels, |x| reference::causal_conv(x, &weight, channels))
        }),
    }
}
