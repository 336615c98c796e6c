//! Shapes that test and time `scale_by_position`.

use super::{reference, scale_by_position};
use crate::cases::{Case, Work, random_f32};
use crate::tensor::{Tensor, ViewMut};

const SHAPES: [(usize, usize); 3] = [(1, 5), (17, 64), (512, 2048)];
const NUM_POSITIONS: usize = 300;

pub fn cases() -> Vec<Case> {
    SHAPES.iter().map(|&(rows, cols)| case(rows, cols)).collect()
}

fn case(rows: usize, cols: usize) -> Case {
    let (x, factors) = (random_f32(41, rows * cols), random_f32(42, NUM_POSITIONS));
    let positions: Vec<u32> = (0..rows).map(|row| (row * 7 % NUM_POSITIONS) as u32).collect();
    let tensor = Tensor::from_f32(&factors, 1, NUM_POSITIONS);
    let (start, case_positions) = (x.clone(), positions.clone());
    Case {
        op: "scale_by_position",
        name: format!("{rows}x{cols}"),
        work: Work { bytes: 8 * (rows * cols) as u64, operations: (rows * cols) as u64 },
        tolerance: 0.0,
        cuda_tolerance: crate::cases::BF16_TOLERANCE,
        output_len: rows * cols,
        run: Box::new(move |device, output| {
            output.copy_from_slice(&start);
            let x = ViewMut::from_f32(output, rows, cols);
            scale_by_position(device, x, (&case_positions).into(), &tensor);
        }),
        reference: Box::new(move || reference::scale_by_position(&x, cols, &positions, &factors)),
    }
}
