//! A short convolution of each channel over its last tokens, then SiLU:
//! `y[t] = silu(Σ_j weight[j] · x[t − (taps − 1) + j])`, where inputs before the step come from the sequence's state
//! (Gated DeltaNet: Yang et al. 2024, arXiv 2412.06464).
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::recurrent_layer::{RecurrentLayer, StateBatch};
use crate::tensor::{DType, Tensor, View, ViewMut};

/// Most taps of a channel.
pub const MAX_TAPS: usize = 8;

/// `out`, `x`: `[rows, channels]` activations; `weight`: `[taps, channels]` F32, the present token's last. Leaves the last
/// inputs of each segment in its state.
pub fn causal_conv(
    device: &Device,
    out: ViewMut,
    x: View,
    weight: &Tensor,
    states: &mut RecurrentLayer,
    batch: &StateBatch,
) {
    let (taps, channels) = (weight.rows(), weight.cols());
    assert!((2..=MAX_TAPS).contains(&taps), "{taps} taps");
    assert_eq!((out.rows(), out.cols()), (x.rows(), channels), "out");
    assert_eq!(x.cols(), channels, "x");
    assert!([out.dtype(), x.dtype()] == [device.activation_dtype(); 2]);
    assert_eq!(weight.dtype(), DType::F32, "weight");
    batch.check(x.rows(), states.num_slots());
    let inputs = states.inputs_mut();
    assert_eq!(inputs.cols(), (taps - 1) * channels, "states");
    match device {
        Device::Cpu(cpu) => cpu::causal_conv(cpu, &out, x, weight, &inputs, batch),
        Device::Cuda(cuda) => cuda::causal_conv(cuda, &out, &x, weight, &inputs, batch),
        Device::Trace(log) => log.push(format!(
            "causal_conv {}x{channels} of {} sequences, {taps} taps",
            x.rows(),
            batch.num_sequences()
        )),
    }
}
