//! Shapes that test and time `gated_delta`.

use super::{GatedDelta, GatedDeltaSpec, gated_delta, reference};
use crate::cases::{Case, Input, Kind, Work, in_place, random_activations, random_f32};
use crate::gated_delta::pieces::Pieces;
use crate::recurrent_layer::{RecurrentLayer, StateShape};

const EPS: f32 = 1e-6;
const MIXED: &[&[usize]] = &[&[1, 1, 5], &[3], &[2, 17], &[40, 1]];

pub fn cases() -> Vec<Case> {
    [
        ("one", &[&[1][..]][..], (1, 1, 4, 4), false),
        ("mixed", MIXED, (2, 4, 16, 16), false),
        ("mixed", MIXED, (2, 4, 16, 16), true),
        ("mixed", MIXED, (3, 3, 18, 87), false),
        ("long", &[&[300, 1]], (1, 2, 32, 64), true),
        ("wide", MIXED, (1, 2, 64, 40), false),
        ("wide", MIXED, (1, 1, 200, 24), false),
        ("decode", &[&[1][..]; 8], (16, 32, 128, 128), false),
        ("prefill", &[&[256]], (16, 16, 128, 128), false),
    ]
    .into_iter()
    .map(|(name, steps, (num_key_heads, num_value_heads, key_dim, value_dim), is_tiled)| {
        let spec = GatedDeltaSpec { num_key_heads, num_value_heads, key_dim, value_dim, is_tiled };
        case(name, steps, spec)
    })
    .collect()
}

fn case(name: &'static str, steps: &[&[usize]], spec: GatedDeltaSpec) -> Case {
    let pieces = Pieces::new(steps);
    let (rows, heads) = (pieces.num_rows(), spec.num_value_heads);
    let cols = spec.qkv_size() + spec.value_size() + 2 * heads;
    let x = random_activations(91, rows * cols);
    let rates: Vec<f32> = random_f32(92, heads).iter().map(|x| -0.6 - x / 2.0).collect();
    let (dt_bias, norm) = (random_f32(93, heads), random_f32(94, spec.value_dim));
    let mut inputs =
        [&rates, &dt_bias, &norm].map(|x| Input::new(Kind::Numbers, x.clone(), 1, x.len()));
    let shape = StateShape {
        taps: 2,
        channels: 1,
        num_value_heads: heads,
        key_dim: spec.key_dim,
        value_dim: spec.value_dim,
    };
    let matrix = heads * spec.key_dim * spec.value_dim;
    let num_states: usize = steps.iter().map(|pieces| pieces.len()).sum();
    let (case_x, case_pieces) = (x.clone(), pieces.clone());
    Case {
        op: "gated_delta",
        name: format!(
            "{name} {rows} rows, {heads}/{} heads of {}x{}{}",
            spec.num_key_heads,
            spec.key_dim,
            spec.value_dim,
            if spec.is_tiled { ", tiled" } else { "" }
        ),
        work: Work {
            bytes: (4 * rows * (cols + spec.value_size()) + 8 * num_states * matrix) as u64,
            operations: (7 * rows * matrix) as u64,
        },
        tolerance: 1e-4,
        cuda_tolerance: crate::cases::BF16_TOLERANCE,
        output_len: rows * spec.value_size(),
        run: Box::new(move |device, output| {
            let [rates, dt_bias, norm] = inputs.each_mut().map(|input| input.on(device));
            let states = RecurrentLayer::new(device, case_pieces.num_slots(), &shape);
            let mut states = states.expect("a small memory");
            let args = GatedDelta { spec, rates, dt_bias, norm, eps: EPS };
            for step in case_pieces.steps() {
                let len = step.rows.len();
                let mut x = case_x[step.rows.start * cols..step.rows.end * cols].to_vec();
                let mut gates = Input::new(Kind::Activations, x.clone(), len, cols);
                let gates = gates.view(device);
                let z = gates.columns(spec.qkv_size()..cols - 2 * heads);
                let ba = gates.columns(cols - 2 * heads..cols);
                let values = spec.value_size();
                let out = &mut output[step.rows.start * values..step.rows.end * values];
                in_place(device, Kind::Activations, &mut x, (len, cols), |x| {
                    let qkv = x.columns(0..spec.qkv_size());
                    in_place(device, Kind::Activations, out, (len, values), |out| {
                        gated_delta(device, out, qkv, (z, ba), &args, &mut states, &step.batch());
                    });
                });
            }
        }),
        reference: Box::new(move || {
            let weights =
                reference::Weights { rates: &rates, dt_bias: &dt_bias, norm: &norm, eps: EPS };
            pieces.by_sequence(&x, cols, |rows| reference::gated_delta(rows, &spec, &weights))
        }),
    }
}
