//! `linear` on a GPU. Few rows: kernels of our own, which read quantized weights as they are. Many rows: cuBLASLt, with
//! quantized weights dequantized to BF16 beforehand, some features at a time.

use super::cuda_weight::{CudaPart, QuantizedPart};
use super::device_layout::TILE;
use super::weight::LinearWeight;
use crate::cuda::{Argument, CudaDevice, Grid, Pointer, Product, Structure};
use crate::indices::Indices;
use crate::tensor::{DType, Tensor, View, ViewMut};

pub(super) const THREADS: usize = 256;

/// Weights that a warp of `dequantize_<format>` takes, and warps of a block.
pub(super) const WARP_WEIGHTS: usize = 256;
pub(super) const WARPS: usize = THREADS / 32;

/// As in `x.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct LinearArgs {
    pub out: Pointer,
    pub x: Pointer,
    pub weight: Pointer,
    pub scales: Pointer,
    pub bias: Pointer,
    pub rows: i32,
    pub in_features: i32,
    pub out_features: i32,
    pub x_stride: i32,
    pub out_stride: i32,
    pub out_is_f32: i32,
    pub factor: f32,
    pub clears: i32,
}

// SAFETY: five addresses, then eight numbers of 32 bits, as in the source.
unsafe impl Structure for LinearArgs {}

pub(super) fn linear(
    cuda: &CudaDevice,
    out: &ViewMut,
    x: &View,
    weight: &LinearWeight,
    bias: Option<&Tensor>,
) {
    let mut first = 0;
    for part in weight.cuda_parts() {
        let bias = bias
            .map_or(Pointer::NULL, |bias| bias.view().pointer().add(first * out.dtype().size()));
        let call = Call {
            cuda,
            out: out.pointer().add(first * out.dtype().size()),
            out_dtype: out.dtype(),
            out_stride: out.row_stride(),
            x,
            bias,
        };
        match part {
            CudaPart::Dense(rows) => call.dense(rows),
            CudaPart::Quantized(part) => call.quantized(part),
        }
        first += part.features();
    }
}

/// One part of a weight.
struct Call<'a> {
    cuda: &'a CudaDevice,
    out: Pointer,
    out_dtype: DType,
    out_stride: usize,
    x: &'a View<'a>,
    bias: Pointer,
}

impl Call<'_> {
    fn dense(&self, rows: &Tensor) {
        let weight = rows.view();
        let is_aligned = self.x.is_aligned_to(16) && weight.is_aligned_to(16);
        if self.x.rows() > self.cuda.few_rows() || !is_aligned {
            return self.multiply(weight.pointer(), 0..rows.rows());
        }
        let args = LinearArgs { weight: weight.pointer(), ..self.args(rows.rows()) };
        self.few_rows("bf16", &args);
    }

    fn quantized(&self, part: &QuantizedPart) {
        let k = self.x.cols();
        let args = LinearArgs {
            weight: part.codes.pointer(),
            scales: part.scales.pointer(),
            factor: part.factor,
            ..self.args(part.features)
        };
        if self.x.rows() <= self.cuda.few_rows() {
            assert!(self.x.is_aligned_to(8), "rows of x are not aligned");
            return self.few_rows(part.layout.name, &args);
        }
        let scratch = self.cuda.scratch();
        let at_once = scratch.bytes() / (DType::BF16.size() * k) / TILE * TILE;
        assert!(at_once > 0, "rows of {k} weights do not fit the scratch memory");
        let (code_bytes, scale_bytes) = part.layout.tile_bytes(k);
        for first in (0..part.features).step_by(at_once) {
            let features = first..part.features.min(first + at_once);
            let args = LinearArgs {
                out: scratch.pointer(),
                out_stride: int(k),
                weight: args.weight.add(first / TILE * code_bytes),
                scales: args.scales.add(first / TILE * scale_bytes),
                out_features: int(features.len()),
                ..args
            };
            let warps = k.div_ceil(WARP_WEIGHTS);
            let blocks = [features.len().div_ceil(TILE), warps.div_ceil(WARPS), 1];
            let grid = Grid { blocks, threads: THREADS, shared_bytes: 0 };
            let kernel = format!("dequantize_{}", part.layout.name);
            self.cuda.launch(&kernel, grid, &[Argument::structure(&args)]);
            self.multiply(scratch.pointer(), features);
        }
    }

    /// Up to 8 rows a block, or 16 where there are more.
    fn few_rows(&self, name: &str, args: &LinearArgs) {
        let at_once = if self.x.rows() > 8 { 16 } else { 8 };
        let blocks =
            [(args.out_features as usize).div_ceil(TILE), self.x.rows().div_ceil(at_once), 1];
        let grid = Grid { blocks, threads: THREADS, shared_bytes: 0 };
        let kernel = format!("linear_{name}_{at_once}");
        self.cuda.launch(&kernel, grid, &[Argument::structure(args)]);
    }

    /// By cuBLASLt: `weight` is BF16, rows of the features `features` of the part.
    fn multiply(&self, weight: Pointer, features: std::ops::Range<usize>) {
        let bias = self.bias.add(features.start * self.out_dtype.size());
        self.cuda.multiply(&Product {
            out: self.out.add(features.start * self.out_dtype.size()),
            out_dtype: self.out_dtype,
            out_stride: self.out_stride,
            x: self.x.pointer(),
            x_stride: self.x.row_stride(),
            weight,
            bias: (self.bias != Pointer::NULL).then_some(bias),
            rows: self.x.rows(),
            out_features: features.len(),
            in_features: self.x.cols(),
            heads: None,
        });
    }

    fn args(&self, features: usize) -> LinearArgs {
        LinearArgs {
            out: self.out,
            x: self.x.pointer(),
            weight: Pointer::NULL,
            scales: Pointer::NULL,
            bias: self.bias,
            rows: int(self.x.rows()),
            in_features: int(self.x.cols()),
            out_features: int(features),
            x_stride: int(self.x.row_stride()),
            out_stride: int(self.out_stride),
            out_is_f32: i32::from(self.out_dtype == DType::F32),
            factor: 1.0,
            clears: 0,
        }
    }
}

/// Rows `ids` of the table times `scale`, as F32.
pub(crate) fn gather(
    cuda: &CudaDevice,
    out: &ViewMut,
    ids: Indices,
    (table, mut first): (&LinearWeight, usize),
    scale: f32,
) {
    let ids = ids.on(cuda);
    for (index, part) in table.cuda_parts().enumerate() {
        let (weight, scales, name, factor) = match part {
            CudaPart::Dense(rows) => (rows.view().pointer(), Pointer::NULL, "bf16", 1.0),
            CudaPart::Quantized(part) => {
                (part.codes.pointer(), part.scales.pointer(), part.layout.name, part.factor)
            }
        };
        let args = LinearArgs {
            out: out.pointer(),
            x: Pointer::NULL,
            weight,
            scales,
            bias: Pointer::NULL,
            rows: int(out.rows()),
            in_features: int(out.cols()),
            out_features: int(part.features()),
            x_stride: 0,
            out_stride: int(out.row_stride()),
            out_is_f32: 1,
            factor: factor * scale,
            // The first part clears rows for all of them.
            clears: i32::from(index == 0),
        };
        let grid = Grid::new(out.rows(), THREADS);
        let arguments = [Argument::structure(&args), ids.pointer().into(), int(first).into()];
        cuda.launch(&format!("embedding_{name}"), grid, &arguments);
        first += part.features();
    }
}

pub(super) fn int(number: usize) -> i32 {
    i32::try_from(number).expect("sizes of a product fit an int")
}
