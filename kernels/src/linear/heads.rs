//! `linear` with a matrix for each head, as latent attention has them.

use super::cuda_weight::CudaPart;
use super::experts::{ExpertWeights, run_heads};
use super::weight::{LinearError, LinearWeight};
use crate::cuda::{Argument, CudaDevice, Grid, Heads, Pointer, Product, Structure};
use crate::device::Device;
use crate::tensor::{Tensor, View, ViewMut};

/// The same projection of each head, all of one shape.
#[derive(Debug)]
pub struct HeadWeights {
    /// Without weights where they are on a GPU.
    heads: ExpertWeights,
    /// On a GPU: BF16 `[num_heads · out_features, in_features]`.
    stacked: Option<Tensor>,
}

impl HeadWeights {
    /// At least one head, all of one shape. On a GPU they must be BF16, as `WeightPolicy::Float32` loads them.
    pub fn new(heads: Vec<LinearWeight>) -> Result<Self, LinearError> {
        let (out_features, in_features) = (heads[0].out_features(), heads[0].in_features());
        if !heads[0].is_on_cuda() {
            return Ok(Self { heads: ExpertWeights::new(heads, None)?, stacked: None });
        }
        let dense = heads.iter().flat_map(LinearWeight::cuda_parts).map(|part| match part {
            CudaPart::Dense(rows) => rows,
            CudaPart::Quantized(part) => panic!("{part:?}: heads on a GPU are BF16"),
        });
        let stacked = Tensor::stacked_on_cuda(&dense.collect::<Vec<_>>())
            .map_err(|_| LinearError::OutOfMemory { out_features, in_features })?;
        let shapes = heads.iter().map(|_| LinearWeight::shape_only(out_features, in_features));
        let heads = ExpertWeights::new(shapes.collect(), None)?;
        Ok(Self { heads, stacked: Some(stacked) })
    }

    fn num_heads(&self) -> usize {
        self.heads.num_experts()
    }

    fn out_features(&self) -> usize {
        self.heads.out_features()
    }

    fn in_features(&self) -> usize {
        self.heads.in_features()
    }
}

/// Columns from one head to the next; the first begins at column 0.
#[derive(Clone, Copy, Debug)]
pub struct HeadStrides {
    pub x: usize,
    pub out: usize,
}

/// `out[r][h · out + o] = Σ_k x[r][h · x + k] · weights[h][o][k]`: a matrix for each head, in one pass over all. `out`, `x`:
/// activations, with columns up to the end of the last head at least.
pub fn head_linear(
    device: &Device,
    out: ViewMut,
    x: View,
    strides: HeadStrides,
    weights: &HeadWeights,
) {
    let num_heads = weights.num_heads();
    let end = |stride: usize, width: usize| (num_heads - 1) * stride + width;
    assert_eq!(out.rows(), x.rows(), "rows");
    assert!(strides.out >= weights.out_features(), "heads of {strides:?} overlap");
    assert!(out.cols() >= end(strides.out, weights.out_features()), "out: {strides:?}");
    assert!(x.cols() >= end(strides.x, weights.in_features()), "x: {strides:?}");
    assert!([out.dtype(), x.dtype()] == [device.activation_dtype(); 2]);
    match device {
        Device::Cpu(cpu) => run_heads(cpu, &out, x, strides, &weights.heads),
        Device::Cuda(cuda) => on_cuda(cuda, &out, &x, strides, weights),
        Device::Trace(log) => {
            let (cols, features) = (weights.in_features(), weights.out_features());
            log.push(format!("head_linear {}x{cols} -> {features}, {num_heads} heads", x.rows()));
        }
    }
}

const THREADS: usize = 256;

/// Features and rows of a block.
const FEATURES: usize = THREADS / 32 * 16;
const ROWS: usize = 16;

/// As in `heads.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct HeadArgs {
    out: Pointer,
    x: Pointer,
    weight: Pointer,
    rows: i32,
    in_features: i32,
    out_features: i32,
    x_stride: i32,
    out_stride: i32,
    x_head: i32,
    out_head: i32,
    pad: i32,
}

// SAFETY: three addresses, then eight numbers of 32 bits, as in the source.
unsafe impl Structure for HeadArgs {}

/// Few rows by a kernel of our own, many by cuBLASLt.
fn on_cuda(
    cuda: &CudaDevice,
    out: &ViewMut,
    x: &View,
    strides: HeadStrides,
    weights: &HeadWeights,
) {
    let stacked = weights.stacked.as_ref().expect("made of heads on this GPU");
    let (in_features, out_features) = (weights.in_features(), weights.out_features());
    let int = |number: usize| i32::try_from(number).expect("sizes of a product fit an int");
    let weight = stacked.view();
    let is_wide = [in_features, strides.x].iter().all(|n| n.is_multiple_of(8))
        && x.is_aligned_to(16)
        && weight.is_aligned_to(16);
    if x.rows() > cuda.few_rows() && is_wide {
        return cuda.multiply(&Product {
            out: out.pointer(),
            out_dtype: out.dtype(),
            out_stride: out.row_stride(),
            x: x.pointer(),
            x_stride: x.row_stride(),
            weight: weight.pointer(),
            bias: None,
            rows: x.rows(),
            out_features,
            in_features,
            heads: Some(Heads { count: weights.num_heads(), x: strides.x, out: strides.out }),
        });
    }
    let args = HeadArgs {
        out: out.pointer(),
        x: x.pointer(),
        weight: weight.pointer(),
        rows: int(x.rows()),
        in_features: int(in_features),
        out_features: int(out_features),
        x_stride: int(x.row_stride()),
        out_stride: int(out.row_stride()),
        x_head: int(strides.x),
        out_head: int(strides.out),
        pad: 0,
    };
    let blocks = [out_features.div_ceil(FEATURES), x.rows().div_ceil(ROWS), weights.num_heads()];
    let grid = Grid { blocks, threads: THREADS, shared_bytes: 0 };
    let kernel = if is_wide { "head_linear_8" } else { "head_linear_1" };
    cuda.launch(kernel, grid, &[Argument::structure(&args)]);
}
