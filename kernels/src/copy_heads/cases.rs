//! Shapes that test and time `copy_heads`.

use super::{CopyHeads, copy_heads, reference};
use crate::cases::{Case, Input, Kind, Work, in_place, random_activations};

/// Rows, heads, columns of a head, strides.
type Shape = (usize, usize, usize, usize, usize);

const SHAPES: [Shape; 4] =
    [(1, 1, 1, 1, 1), (3, 4, 5, 7, 9), (5, 3, 8, 8, 0), (256, 16, 64, 576, 192)];

pub fn cases() -> Vec<Case> {
    let kinds = [Kind::Activations, Kind::Numbers];
    let pairs = kinds.into_iter().flat_map(|from| kinds.map(|to| (from, to)));
    let of_pair = |pair| SHAPES.into_iter().map(move |shape| case(shape, pair));
    pairs.flat_map(of_pair).collect()
}

/// `from`: of what is read.
fn case((n, num_heads, width, out_stride, x_stride): Shape, (from, to): (Kind, Kind)) -> Case {
    let heads = CopyHeads { num_heads, width, out_stride, x_stride };
    let end = |stride: usize| (num_heads - 1) * stride + width;
    let (out_cols, x_cols) = (end(out_stride), end(x_stride));
    let x = random_activations(71, n * x_cols);
    let mut input = Input::new(from, x.clone(), n, x_cols);
    Case {
        op: "copy_heads",
        name: format!("{n} rows, {heads:?}, {from:?} to {to:?}"),
        work: Work { bytes: 8 * (n * num_heads * width) as u64, operations: 0 },
        tolerance: 0.0,
        cuda_tolerance: 0.0,
        output_len: n * out_cols,
        run: Box::new(move |device, output| {
            output.fill(0.0);
            in_place(device, to, output, (n, out_cols), |out| {
                copy_heads(device, out, input.view(device), heads);
            });
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
