//! Shapes that test and time `rms_norm`.

use super::{add_rms_norm, reference, rms_norm};
use crate::cases::{Case, Work, random_f32};
use crate::tensor::{Tensor, View, ViewMut};

const SHAPES: [(usize, usize); 5] = [(1, 1), (3, 7), (5, 65), (32, 576), (512, 2048)];
const EPS: f32 = 1e-5;

pub fn cases() -> Vec<Case> {
    SHAPES.iter().flat_map(|&(rows, cols)| [plain(rows, cols), fused(rows, cols)]).collect()
}

fn plain(rows: usize, cols: usize) -> Case {
    let (x, weight) = (random_f32(1, rows * cols), random_f32(2, cols));
    let weight_tensor = Tensor::from_f32(&weight, 1, cols);
    let input = x.clone();
    Case {
        op: "rms_norm",
        name: format!("{rows}x{cols}"),
        work: Work { bytes: 8 * (rows * cols) as u64, operations: 4 * (rows * cols) as u64 },
        tolerance: 2e-6,
        output_len: rows * cols,
        run: Box::new(move |device, output| {
            let out = ViewMut::from_f32(output, rows, cols);
            rms_norm(device, out, View::from_f32(&input, rows, cols), &weight_tensor, EPS);
        }),
        reference: Box::new(move || {
            x.chunks(cols).flat_map(|row| reference::rms_norm_row(row, &weight, EPS)).collect()
        }),
    }
}

fn fused(rows: usize, cols: usize) -> Case {
    let (x, residual) = (random_f32(3, rows * cols), random_f32(4, rows * cols));
    let weight = random_f32(5, cols);
    let weight_tensor = Tensor::from_f32(&weight, 1, cols);
    let (input, start) = (x.clone(), residual.clone());
    let mut scratch = residual.clone();
    Case {
        op: "rms_norm",
        name: format!("add {rows}x{cols}"),
        work: Work { bytes: 16 * (rows * cols) as u64, operations: 5 * (rows * cols) as u64 },
        tolerance: 2e-6,
        output_len: rows * cols,
        run: Box::new(move |device, output| {
            scratch.copy_from_slice(&start);
            let out = ViewMut::from_f32(output, rows, cols);
            let residual = ViewMut::from_f32(&mut scratch, rows, cols);
            let x = View::from_f32(&input, rows, cols);
            add_rms_norm(device, out, residual, x, &weight_tensor, EPS);
        }),
        reference: Box::new(move || {
            let sum: Vec<f32> = residual.iter().zip(&x).map(|(r, x)| r + x).collect();
            sum.chunks(cols).flat_map(|row| reference::rms_norm_row(row, &weight, EPS)).collect()
        }),
    }
}
