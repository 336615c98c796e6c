//! `linear` on a GPU: weights in BF16, multiplied by cuBLASLt. Quantized ones are dequantized when they are loaded.

use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::format::{WeightFormat, dequantize_row};
use super::weight::{LinearError, LinearWeight};
use crate::cuda::{CudaDevice, DeviceBuffer, Product};
use crate::mapped_file::FileBytes;
use crate::tensor::{DType, Tensor, View, ViewMut};

/// Bytes of BF16 that are made on the host before they travel.
const BYTES_AT_ONCE: usize = 8 << 20;

pub(super) fn linear(
    cuda: &CudaDevice,
    out: &ViewMut,
    x: &View,
    weight: &LinearWeight,
    bias: Option<&Tensor>,
) {
    cuda.multiply(&Product {
        out: out.pointer(),
        out_dtype: out.dtype(),
        out_stride: out.row_stride(),
        x: x.pointer(),
        x_stride: x.row_stride(),
        weight: weight.cuda_rows().view().pointer(),
        bias: bias.map(|bias| bias.view().pointer()),
        rows: x.rows(),
        out_features: weight.out_features(),
        in_features: weight.in_features(),
    });
}

/// Rows of a file's tensor as BF16 `[out_features, in_features]` on the GPU.
pub(super) fn load(
    cuda: &CudaDevice,
    format: WeightFormat,
    bytes: FileBytes,
    out_features: usize,
    in_features: usize,
) -> Result<Tensor, LinearError> {
    let short = LinearError::OutOfMemory { out_features, in_features };
    let buffer = DeviceBuffer::zeroed(cuda.context(), 2 * out_features * in_features);
    let buffer = buffer.map_err(|_| short)?;
    let row_bytes = bytes.len() / out_features.max(1);
    let rows_at_once = (BYTES_AT_ONCE / (2 * in_features)).max(1);
    let mut row = vec![0.0; in_features];
    for first in (0..out_features).step_by(rows_at_once) {
        let rows = first..out_features.min(first + rows_at_once);
        let range = rows.start * row_bytes..rows.end * row_bytes;
        if format == WeightFormat::BF16 {
            buffer.write(range.start, &bytes[range.clone()]);
        } else {
            let mut halves = vec![bf16::ZERO; rows.len() * in_features];
            for (row_of_file, halves) in bytes[range.clone()]
                .chunks_exact(row_bytes)
                .zip(halves.chunks_exact_mut(in_features))
            {
                dequantize_row(format, row_of_file, &mut row);
                halves.convert_from_f32_slice(&row);
            }
            let halves: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
            buffer.write(2 * rows.start * in_features, &halves);
        }
        bytes.slice(range).expect("inside").release();
    }
    Ok(Tensor::on_cuda(buffer, DType::BF16, out_features, in_features))
}
