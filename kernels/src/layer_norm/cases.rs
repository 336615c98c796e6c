//! Shapes that test and time `layer_norm`.

use super::{Kept, LayerNorm, add_layer_norm, layer_norm, post_layer_norm, reference};
use crate::cases::{
    BF16_TOLERANCE, Case, Input, Kind, Work, in_place, random_activations, random_f32,
};

/// Rows, columns, and whether there is a bias.
const SHAPES: [(usize, usize, bool); 5] =
    [(1, 1, true), (3, 7, false), (5, 65, true), (32, 384, true), (512, 768, false)];
const EPS: f32 = 1e-5;

pub fn cases() -> Vec<Case> {
    let all = [(false, Kept::Norm), (true, Kept::Sum), (true, Kept::Norm)];
    SHAPES.iter().flat_map(|&shape| all.map(|(adds, kept)| case(shape, adds, kept))).collect()
}

/// The output: the rows, and behind them what the residual stream holds then. `adds`: there is an x.
fn case((rows, cols, has_bias): (usize, usize, bool), adds: bool, kept: Kept) -> Case {
    // Far from a mean of 0, which the sums must survive.
    let x: Vec<f32> = random_activations(11, rows * cols).iter().map(|x| 2.0 * x + 3.0).collect();
    let x = crate::cases::rounded_to_bf16(x);
    let start: Vec<f32> = random_f32(12, rows * cols).iter().map(|x| x - 2.0).collect();
    let (weight, bias) = (random_f32(13, cols), has_bias.then(|| random_f32(14, cols)));
    let mut input = Input::new(Kind::Activations, x.clone(), rows, cols);
    let mut weight_input = Input::new(Kind::Numbers, weight.clone(), 1, cols);
    let mut bias_input = bias.clone().map(|bias| Input::new(Kind::Numbers, bias, 1, cols));
    let residual = start.clone();
    let name = match (adds, kept) {
        (false, _) => "",
        (true, Kept::Sum) => "add ",
        (true, Kept::Norm) => "post ",
    };
    Case {
        op: "layer_norm",
        name: format!("{name}{rows}x{cols} bias={has_bias}"),
        work: Work { bytes: 12 * (rows * cols) as u64, operations: 7 * (rows * cols) as u64 },
        tolerance: 1e-5,
        cuda_tolerance: BF16_TOLERANCE,
        output_len: 2 * rows * cols,
        run: Box::new(move |device, output| {
            let (out, stream) = output.split_at_mut(rows * cols);
            stream.copy_from_slice(&start);
            let bias = bias_input.as_mut().map(|bias| bias.on(device));
            let norm = LayerNorm { weight: weight_input.on(device), bias, eps: EPS };
            let x = input.view(device);
            in_place(device, Kind::Numbers, stream, (rows, cols), |residual| {
                in_place(device, Kind::Activations, out, (rows, cols), |out| match (adds, kept) {
                    (false, _) => layer_norm(device, out, residual, norm),
                    (true, Kept::Sum) => add_layer_norm(device, out, residual, x, norm),
                    (true, Kept::Norm) => post_layer_norm(device, out, residual, x, norm),
                });
            });
        }),
        reference: Box::new(move || {
            let add = |(&x, &r): (&f32, &f32)| if adds { x + r } else { r };
            let sum: Vec<f32> = x.iter().zip(&residual).map(add).collect();
            let row = |row: &[f32]| reference::layer_norm_row(row, &weight, bias.as_deref(), EPS);
            let normed: Vec<f32> = sum.chunks(cols).flat_map(row).collect();
            let stream = if kept == Kept::Sum { sum } else { normed.clone() };
            normed.into_iter().chain(stream).collect()
        }),
    }
}
