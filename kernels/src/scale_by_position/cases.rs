//! Shapes that test and time `scale_by_position`.

use super::{reference, scale_by_position};
use crate::cases::{Case, Input, Kind, Work, in_place, random_activations, random_f32};

const SHAPES: [(usize, usize); 3] = [(1, 5), (17, 64), (512, 2048)];
const NUM_POSITIONS: usize = 300;

pub fn cases() -> Vec<Case> {
    SHAPES.iter().map(|&(rows, cols)| case(rows, cols)).collect()
}

fn case(rows: usize, cols: usize) -> Case {
    let (x, factors) = (random_activations(41, rows * cols), random_f32(42, NUM_POSITIONS));
    let positions: Vec<u32> = (0..rows).map(|row| (row * 7 % NUM_POSITIONS) as u32).collect();
    let mut tensor = Input::new(Kind::Numbers, factors.clone(), 1, NUM_POSITIONS);
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
            let factors = tensor.on(device);
            in_place(device, Kind::Activations, output, (rows, cols), |x| {
                scale_by_position(device, x, (&case_positions).into(), factors);
            });
        }),
        reference: Box::new(move || reference::scale_by_position(&x, cols, &positions, &factors)),
    }
}
