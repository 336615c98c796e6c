//! Shapes that test and time `copy_heads`.

use super::{CopyHeads, copy_heads, reference};
use crate::cases::{Case, Work, random_f32};
use crate::tensor::{View, ViewMut};

/// Rows, heads, columns of a head, strides.
const SHAPES: [(usize, usize, usize, usize, usize); 4] =
    [(1, 1, 1, 1, 1), (3, 4, 5, 7, 9), (5, 3, 8, 8, 0), (256, 16, 64, 576, 192)];

pub fn cases() -> Vec<Case> {
    SHAPES.into_iter().map(case).collect()
}

fn case((n, num_heads, width, out_stride, x_stride): (usize, usize, usize, usize, usize)) -> Case {
    let heads = CopyHeads { num_heads, width, out_stride, x_stride };
    let end = |stride: usize| (num_heads - 1) * stride + width;
    let (out_cols, x_cols) = (end(out_stride), end(x_stride));
    let x = random_f32(71, n * x_cols);
    let input = x.clone();
    Case {
        op: "copy_heads",
        name: format!("{n} rows, {heads:?}"),
        work: Work { bytes: 8 * (n * num_heads * width) as u64, operations: 0 },
        tolerance: 0.0,
        cuda_tolerance: 0.0,
        output_len: n * out_cols,
        run: Box::new(move |device, output| {
            output.fill(0.0);
            let out = ViewMut::from_f32(output, n, out_cols);
            copy_heads(device, out, View::from_f32(&input, n, x_cols), heads);
        }),
        reference: Box::new(move || {
            let mut out = vec![0.0; n * out_cols];
            for (out, x) in out.chunks_mut(out_cols).zip(x.chunks(x_cols)) {
                reference::copy_heads(out, x, heads);
            }
            out
        }),
    }
}
