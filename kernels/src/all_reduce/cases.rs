//! Shapes that test and time `all_reduce`: the first rank on the device of the case, the others beside it.

use std::time::Duration;

use super::{RankGroup, all_reduce, reference};
use crate::cases::{Case, Work, random_f32};
use crate::device::Device;
use crate::tensor::Tensor;

/// Ranks, rows and columns.
const SHAPES: [(usize, usize, usize); 5] =
    [(2, 1, 1), (2, 3, 576), (3, 7, 2049), (4, 5, 1000), (1, 2, 9)];

pub fn cases() -> Vec<Case> {
    SHAPES.into_iter().map(|(num_ranks, rows, cols)| case(num_ranks, rows, cols)).collect()
}

fn case(num_ranks: usize, rows: usize, cols: usize) -> Case {
    let len = rows * cols;
    let of_rank = move |rank: usize| -> Vec<f32> {
        // Of such different sizes that the order of additions shows.
        let scale = 10.0_f32.powi(3 * rank as i32);
        random_f32(rank as u64 + 1, len).iter().map(|x| x * scale).collect()
    };
    let all: Vec<Vec<f32>> = (0..num_ranks).map(of_rank).collect();
    Case {
        op: "all_reduce",
        name: format!("{num_ranks} ranks, {rows}x{cols}"),
        work: Work {
            bytes: (8 * num_ranks * len) as u64,
            operations: ((num_ranks - 1) * len) as u64,
        },
        tolerance: 0.0,
        // Takes a GPU for each rank: `tests/ranks.rs`.
        cuda_tolerance: f32::NAN,
        output_len: len,
        run: Box::new(move |device, output| {
            let reduce = |device: &Device, group: &RankGroup| {
                let mut x = Tensor::from_f32(&of_rank(group.rank()), rows, cols);
                all_reduce(device, group, x.view_mut());
                x
            };
            let mut groups = RankGroup::new(num_ranks, Duration::from_secs(60)).into_iter();
            let first = groups.next().expect("there is a rank");
            std::thread::scope(|scope| {
                for group in groups {
                    scope.spawn(move || reduce(&Device::cpu(1 + group.rank()), &group));
                }
                output.copy_from_slice(reduce(device, &first).f32());
            });
        }),
        reference: Box::new(move || reference::all_reduce(&all)),
    }
}
