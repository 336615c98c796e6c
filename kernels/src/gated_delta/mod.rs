//! Gated DeltaNet: linear attention whose memory is a matrix that forgets and corrects itself (Yang et al. 2024,
//! arXiv 2412.06464).
//!
//! For each value head, with its key head's q and k scaled to length 1, q by 1/√key_dim too:
//! `decay = e^(rate · softplus(a + dt_bias))`, `beta = sigmoid(b)`,
//! `S = decay · S`, `d = beta · (v − Sᵀ k)`, `S += k dᵀ`, `o = Sᵀ q`, `out = norm_weight · rms_norm(o) · silu(z)`.
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
pub(crate) mod pieces;
pub mod reference;

use crate::device::Device;
use crate::recurrent_layer::{RecurrentLayer, StateBatch};
use crate::tensor::{DType, Tensor, View, ViewMut};

/// Added to the squared length of q and of k.
const LENGTH_EPS: f32 = 1e-6;

/// Heads of a layer; `num_value_heads` is a multiple of `num_key_heads`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatedDeltaSpec {
    pub num_key_heads: usize,
    pub num_value_heads: usize,
    pub key_dim: usize,
    pub value_dim: usize,
    /// Value head h has key head h mod num_key_heads. Else consecutive value heads share one.
    pub is_tiled: bool,
}

impl GatedDeltaSpec {
    /// Columns of q, k and v together.
    pub fn qkv_size(&self) -> usize {
        2 * self.num_key_heads * self.key_dim + self.value_size()
    }

    /// Columns of v, of z and of the output.
    pub fn value_size(&self) -> usize {
        self.num_value_heads * self.value_dim
    }

    fn key_head(&self, value_head: usize) -> usize {
        match self.is_tiled {
            true => value_head % self.num_key_heads,
            false => value_head / (self.num_value_heads / self.num_key_heads),
        }
    }
}

/// What a layer learned, all F32.
#[derive(Clone, Copy)]
pub struct GatedDelta<'a> {
    pub spec: GatedDeltaSpec,
    /// `[1, num_value_heads]`, below 0.
    pub rates: &'a Tensor,
    /// `[1, num_value_heads]`.
    pub dt_bias: &'a Tensor,
    /// `[1, value_dim]`.
    pub norm: &'a Tensor,
    pub eps: f32,
}

/// `qkv`: `[rows, q | k | v]`, convolved; its q and k may be scaled in place. `z`, `out`: `[rows, value_size]`. `ba`: `[rows,
/// b of all value heads | a]`. All activations.
pub fn gated_delta(
    device: &Device,
    out: ViewMut,
    qkv: ViewMut,
    (z, ba): (View, View),
    args: &GatedDelta,
    states: &mut RecurrentLayer,
    batch: &StateBatch,
) {
    let (spec, rows) = (args.spec, qkv.rows());
    assert!(spec.num_value_heads.is_multiple_of(spec.num_key_heads), "{spec:?}");
    assert_eq!(qkv.cols(), spec.qkv_size(), "qkv");
    assert_eq!((out.rows(), out.cols()), (rows, spec.value_size()), "out");
    assert_eq!((z.rows(), z.cols()), (rows, spec.value_size()), "z");
    assert_eq!((ba.rows(), ba.cols()), (rows, 2 * spec.num_value_heads), "ba");
    let dtypes = [out.dtype(), qkv.dtype(), z.dtype(), ba.dtype()];
    assert!(dtypes == [device.activation_dtype(); 4]);
    let weights = [args.rates.dtype(), args.dt_bias.dtype(), args.norm.dtype()];
    assert!(weights == [DType::F32; 3]);
    assert_eq!(args.rates.cols(), spec.num_value_heads, "rates");
    assert_eq!(args.dt_bias.cols(), spec.num_value_heads, "dt_bias");
    assert_eq!(args.norm.cols(), spec.value_dim, "norm");
    batch.check(rows, states.num_slots());
    let matrices = states.matrices_mut();
    assert_eq!(matrices.cols(), spec.num_value_heads * spec.key_dim * spec.value_dim, "states");
    match device {
        Device::Cpu(cpu) => cpu::gated_delta(cpu, &out, &qkv, (z, ba), args, &matrices, batch),
        Device::Cuda(cuda) => {
            cuda::gated_delta(cuda, &out, &qkv, (&z, &ba), args, &matrices, batch);
        }
        Device::Trace(log) => log.push(format!(
            "gated_delta {rows} rows of {} sequences, {}/{} heads of {}x{}",
            batch.num_sequences(),
            spec.num_value_heads,
            spec.num_key_heads,
            spec.key_dim,
            spec.value_dim
        )),
    }
}
