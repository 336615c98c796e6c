//! Shapes that test and time `layer_norm`.

use super::{LayerNorm, add_layer_norm, layer_norm, reference};
use crate::cases::{Case, Input, Kind, NO_CUDA_KERNEL, Work, in_place, random_f32};

/// Rows, columns, and whether there is a bias.
const SHAPES: [(usize, usize, bool); 5] =
    [(1, 1, true), (3, 7, false), (5, 65, true), (32, 384, true), (512, 768, false)];
const EPS: f32 = 1e-5;

pub fn cases() -> Vec<Case> {
    let both = |&shape: &(usize, usize, bool)| [case(shape, false), case(shape, true)];
    SHAPES.iter().flat_map(both).collect()
}

/// `adds`: the fused one, whose residual stream is the output.
fn case((rows, cols, has_bias): (usize, usize, bool), adds: bool) -> Case {
    // Far from a mean of 0, which the sums must survive.
    let x: Vec<f32> = random_f32(11, rows * cols).iter().map(|x| 2.0 * x + 3.0).collect();
    let residual = random_f32(12, rows * cols);
    let (weight, bias) = (random_f32(13, cols), has_bias.then(|| random_f32(14, cols)));
    let mut input = Input::new(Kind::Numbers, x.clone(), rows, cols);
    let mut weight_input = Input::new(Kind::Numbers, weight.clone(), 1, cols);
    let mut bias_input = bias.clone().map(|bias| Input::new(Kind::Numbers, bias, 1, cols));
    let (start, mut scratch) = (residual.clone(), residual.clone());
    Case {
        op: "layer_norm",
        name: format!("{}{rows}x{cols} bias={has_bias}", if adds { "add " } else { "" }),
        work: Work { bytes: 12 * (rows * cols) as u64, operations: 7 * (rows * cols) as u64 },
        tolerance: 1e-5,
        cuda_tolerance: NO_CUDA_KERNEL,
        output_len: rows * cols,
        run: Box::new(move |device, output| {
            scratch.copy_from_slice(&start);
            let bias = bias_input.as_mut().map(|bias| bias.on(device));
            let norm = LayerNorm { weight: weight_input.on(device), bias, eps: EPS };
            let x = input.view(device);
            in_place(device, Kind::Numbers, &mut scratch, (rows, cols), |residual| {
                in_place(device, Kind::Numbers, output, (rows, cols), |out| match adds {
                    true => add_layer_norm(device, out, residual, x, norm),
                    false => layer_norm(device, out, x, norm),
                });
            });
        }),
        reference: Box::new(move || {
            let add = |(&x, &r): (&f32, &f32)| if adds { x + r } else { x };
            let sum: Vec<f32> = x.iter().zip(&residual).map(add).collect();
            let row = |row: &[f32]| reference::layer_norm_row(row, &weight, bias.as_deref(), EPS);
            sum.chunks(cols).flat_map(row).collect()
        }),
    }
}
