//! `causal_conv` on a GPU: blocks for the beginning of each sequence and its states, and blocks for the other rows.

use crate::cuda::{CudaDevice, Grid};
use crate::recurrent_layer::StateBatch;
use crate::tensor::{Tensor, View, ViewMut};

const THREADS: usize = 128;

/// Rows of a block.
const ROWS: usize = 16;

pub(super) fn causal_conv(
    cuda: &CudaDevice,
    out: &ViewMut,
    x: &View,
    weight: &Tensor,
    inputs: &ViewMut,
    batch: &StateBatch,
) {
    let (taps, channels) = (weight.rows(), weight.cols());
    let is_aligned = out.is_aligned_to(4) && x.is_aligned_to(4) && channels.is_multiple_of(2);
    let (kernel, at_once) = match (taps <= 4, is_aligned) {
        (true, true) => ("causal_conv_4_2", 2),
        (true, false) => ("causal_conv_4_1", 1),
        (false, true) => ("causal_conv_8_2", 2),
        (false, false) => ("causal_conv_8_1", 1),
    };
    let num_seqs = batch.num_sequences();
    let blocks = [channels.div_ceil(at_once * THREADS), num_seqs + x.rows().div_ceil(ROWS), 1];
    let [segments, start_loc] = batch.on(cuda);
    cuda.launch(
        kernel,
        Grid { blocks, threads: THREADS, shared_bytes: 0 },
        &[
            out.pointer().into(),
            x.pointer().into(),
            weight.view().pointer().into(),
            inputs.pointer().into(),
            segments.pointer().into(),
            start_loc.pointer().into(),
            num_seqs.into(),
            x.rows().into(),
            channels.into(),
            taps.into(),
            out.row_stride().into(),
            x.row_stride().into(),
        ],
    );
}
