//! Shapes that test and time `causal_conv`.

use super::{causal_conv, reference};
use crate::cases::{Case, Work, random_f32};
use crate::device::Device;
use crate::gated_delta::pieces::Pieces;
use crate::recurrent_layer::{RecurrentLayer, StateShape};
use crate::tensor::{Tensor, View, ViewMut};

pub fn cases() -> Vec<Case> {
    [
        ("one", &[&[1][..]][..], 4, 16),
        ("mixed", &[&[1, 1, 5], &[3], &[2, 17], &[40, 1]], 4, 130),
        ("taps", &[&[1, 1, 1, 1, 9], &[8]], 7, 257),
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
    let (x, weight) = (random_f32(81, rows * channels), random_f32(82, taps * channels));
    let shape = StateShape { taps, channels, num_value_heads: 1, key_dim: 1, value_dim: 1 };
    let tensor = Tensor::from_f32(&weight, taps, channels);
    let mut states =
        RecurrentLayer::new(&Device::cpu(1), pieces.num_slots(), &shape).expect("a small memory");
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
            for step in case_pieces.steps() {
                let range = step.rows.start * channels..step.rows.end * channels;
                let x = View::from_f32(&case_x[range.clone()], step.rows.len(), channels);
                let out = ViewMut::from_f32(&mut output[range], step.rows.len(), channels);
                causal_conv(device, out, x, &tensor, &mut states, &step.batch());
            }
        }),
        reference: Box::new(move || {
            pieces.by_sequence(&x, channels, |x| reference::causal_conv(x, &weight, channels))
        }),
    }
}
