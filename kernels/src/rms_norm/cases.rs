//! Shapes that test and time `rms_norm`.

use super::{add_rms_norm, reference, rms_norm};
use crate::cases::{
    BF16_TOLERANCE, Case, Input, Kind, Work, in_place, random_activations, random_f32,
};

const SHAPES: [(usize, usize); 5] = [(1, 1), (3, 7), (5, 65), (32, 576), (512, 2048)];
const EPS: f32 = 1e-5;

pub fn cases() -> Vec<Case> {
    let cases = |&(rows, cols): &(usize, usize)| {
        let plain = [Kind::Numbers, Kind::Activations].map(|kind| plain(rows, cols, kind));
        plain.into_iter().chain([fused(rows, cols)])
    };
    SHAPES.iter().flat_map(cases).collect()
}

fn plain(rows: usize, cols: usize, kind: Kind) -> Case {
    let (x, weight) = (random_activations(1, rows * cols), random_f32(2, cols));
    let mut weight_input = Input::new(Kind::Numbers, weight.clone(), 1, cols);
    let mut input = Input::new(kind, x.clone(), rows, cols);
    Case {
        op: "rms_norm",
        name: format!("{rows}x{cols} {kind:?}"),
        work: Work { bytes: 8 * (rows * cols) as u64, operations: 4 * (rows * cols) as u64 },
        tolerance: 2e-6,
        cuda_tolerance: BF16_TOLERANCE,
        output_len: rows * cols,
        run: Box::new(move |device, output| {
            let (x, weight) = (input.view(device), weight_input.on(device));
            in_place(device, Kind::Activations, output, (rows, cols), |out| {
                rms_norm(device, out, x, weight, EPS);
            });
        }),
        reference: Box::new(move || {
            x.chunks(cols).flat_map(|row| reference::rms_norm_row(row, &weight, EPS)).collect()
        }),
    }
}

fn fused(rows: usize, cols: usize) -> Case {
    let (x, residual) = (random_activations(3, rows * cols), random_f32(4, rows * cols));
    let weight = random_f32(5, cols);
    let mut weight_input = Input::new(Kind::Numbers, weight.clone(), 1, cols);
    let mut input = Input::new(Kind::Activations, x.clone(), rows, cols);
    let (start, mut scratch) = (residual.clone(), residual.clone());
    Case {
        op: "rms_norm",
        name: format!("add {rows}x{cols}"),
        work: Work { bytes: 16 * (rows * cols) as u64, operations: 5 * (rows * cols) as u64 },
        tolerance: 2e-6,
        cuda_tolerance: BF16_TOLERANCE,
        output_len: rows * cols,
        run: Box::new(move |device, output| {
            scratch.copy_from_slice(&start);
            let (x, weight) = (input.view(device), weight_input.on(device));
            in_place(device, Kind::Numbers, &mut scratch, (rows, cols), |residual| {
                in_place(device, Kind::Activations, output, (rows, cols), |out| {
                    add_rms_norm(device, out, residual, x, weight, EPS);
                });
            });
        }),
        reference: Box::new(move || {
            let sum: Vec<f32> = residual.iter().zip(&x).map(|(r, x)| r + x).collect();
            sum.chunks(cols).flat_map(|row| reference::rms_norm_row(row, &weight, EPS)).collect()
        }),
    }
}
