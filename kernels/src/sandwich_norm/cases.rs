//! Shapes that test and time `sandwich_norm`.

use super::{SandwichNorm, reference, sandwich_norm};
use crate::cases::{Case, Input, Kind, Work, in_place, random_activations, random_f32};

const SHAPES: [(usize, usize, f32); 5] =
    [(1, 1, 1.0), (3, 7, 0.5), (5, 65, 1.0), (32, 640, 0.75), (512, 2048, 1.0)];
const EPS: f32 = 1e-6;

pub fn cases() -> Vec<Case> {
    let kinds = [Kind::Numbers, Kind::Activations];
    SHAPES
        .iter()
        .flat_map(|&(rows, cols, scale)| kinds.map(|kind| case(rows, cols, scale, kind)))
        .collect()
}

/// The output is the new residual, then `out`.
fn case(rows: usize, cols: usize, scale: f32, kind: Kind) -> Case {
    let (x, residual) = (random_activations(31, rows * cols), random_activations(32, rows * cols));
    let weights = [33, 34].map(|seed| random_f32(seed, cols));
    let mut tensors = weights.clone().map(|weight| Input::new(Kind::Numbers, weight, 1, cols));
    let mut input = Input::new(Kind::Activations, x.clone(), rows, cols);
    let start = residual.clone();
    Case {
        op: "sandwich_norm",
        name: format!("{rows}x{cols} scale {scale} {kind:?}"),
        work: Work { bytes: 16 * (rows * cols) as u64, operations: 10 * (rows * cols) as u64 },
        tolerance: 4e-6,
        cuda_tolerance: crate::cases::BF16_TOLERANCE,
        output_len: 2 * rows * cols,
        run: Box::new(move |device, output| {
            let (residual, out) = output.split_at_mut(rows * cols);
            residual.copy_from_slice(&start);
            let [post_weight, weight] = &mut tensors;
            let (post_weight, weight) = (post_weight.on(device), weight.on(device));
            let norm = SandwichNorm { post_weight, scale, weight, eps: EPS };
            let x = input.view(device);
            in_place(device, kind, residual, (rows, cols), |residual| {
                in_place(device, Kind::Activations, out, (rows, cols), |out| {
                    sandwich_norm(device, out, residual, x, norm);
                });
            });
        }),
        reference: Box::new(move || {
            let (mut all_residual, mut all_out) = (Vec::new(), Vec::new());
            for (residual, x) in residual.chunks(cols).zip(x.chunks(cols)) {
                let weights = (&weights[0][..], &weights[1][..]);
                let (sum, out) = reference::sandwich_norm_row(residual, x, weights, scale, EPS);
                all_residual.extend(sum);
                all_out.extend(out);
            }
            all_residual.extend(all_out);
            all_residual
        }),
    }
}
