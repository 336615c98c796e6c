//! Matrix product with a weight in any format: `out[r][o] = Σ_k x[r][k] · weight[o][k] + bias[o]`.
//!
//! On the CPU quantized weights are packed at load and multiplied with rows of x that are rounded to integers
//! (`packed/`); weights that are floats are multiplied in float32 (`dense.rs`). An output element is the same to the bit
//! for every number of rows, threads and neighbours: its additions have one fixed order.
#![allow(clippy::inline_always, reason = "block functions are compiled once per instruction set")]

mod bfloat16;
mod block;
mod bytes;
pub mod cases;
mod cpu;
mod cuda;
mod cuda_experts;
mod cuda_weight;
mod dense;
mod device_layout;
mod experts;
mod float16;
mod float32;
mod format;
mod grouped;
mod heads;
mod input;
mod iq;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod iq4_nl;
mod iq4_xs;
mod microkernel;
mod mxfp4;
mod nvfp4;
mod packed;
mod q1_0;
mod q2_0;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
pub mod reference;
mod repeating;
mod scratch;
mod tq1_0;
mod tq2_0;
mod weight;

pub(crate) use cuda::gather as gather_on_cuda;
pub use experts::{ExpertInput, ExpertWeights, expert_linear};
pub use format::{WeightFormat, dequantize_row};
pub use grouped::{
    GroupScales, GroupedPart, GroupedWeight, Numbers, ScaleKind, SelectedRows, WordLayout,
    ZeroLayout, Zeros,
};
pub use heads::{HeadStrides, HeadWeights, head_linear};
pub use input::Input;
pub use packed::ActivationPrecision;
pub use weight::{LinearError, LinearWeight, WeightPolicy};

use crate::device::Device;
use crate::tensor::{DType, Tensor, ViewMut};

/// `out = x · weightᵀ + bias`. `out`: `[n, out_features]` activations or F32, rows may be strided;
/// `x`: `[n, in_features]` activations; `bias`: `[1, out_features]` of the type of `out`.
pub fn linear<'a>(
    device: &Device,
    out: ViewMut,
    x: impl Into<Input<'a>>,
    weight: &LinearWeight,
    bias: Option<&Tensor>,
) {
    let mut input = x.into();
    let x = input.rows();
    assert_eq!(x.cols(), weight.in_features(), "in_features");
    assert_eq!((out.rows(), out.cols()), (x.rows(), weight.out_features()), "out");
    let activations = device.activation_dtype();
    assert!(out.dtype() == DType::F32 || out.dtype() == activations, "out");
    assert_eq!(x.dtype(), activations, "x");
    if let Some(bias) = bias {
        assert_eq!((bias.rows(), bias.cols()), (1, weight.out_features()), "bias");
        assert_eq!(bias.dtype(), out.dtype(), "bias");
    }
    if let Device::Cpu(cpu) = device
        && cpu::is_packed(weight)
    {
        return packed::linear(cpu, &out, &input, weight, bias.map(Tensor::f32));
    }
    let x = input.make(device);
    match device {
        Device::Cpu(cpu) => cpu::linear(cpu, &out, x, weight, bias.map(Tensor::f32)),
        Device::Cuda(cuda) => cuda::linear(cuda, &out, &x, weight, bias),
        Device::Trace(log) => {
            let bias = if bias.is_some() { " bias" } else { "" };
            log.push(format!("linear {}x{} -> {}{bias}", x.rows(), x.cols(), out.cols()));
        }
    }
}
