//! Weights in the memory of a GPU: BF16 row after row, or the codes and scales of a quantized format (`device_layout.rs`).

use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::device_layout::{DeviceLayout, TILE};
use super::format::{WeightFormat, dequantize_row};
use super::weight::{LinearError, WeightPolicy};
use crate::cuda::{CudaDevice, DeviceBuffer};
use crate::device::DeviceError;
use crate::mapped_file::FileBytes;
use crate::tensor::{DType, Tensor};

/// Bytes that are made on the host before they travel.
const BYTES_AT_ONCE: usize = 8 << 20;

/// Rows of one format.
#[derive(Debug)]
pub(in crate::linear) enum CudaPart {
    /// BF16 `[features, in_features]`
    Dense(Tensor),
    Quantized(QuantizedPart),
}

pub(in crate::linear) struct QuantizedPart {
    pub layout: DeviceLayout,
    pub codes: DeviceBuffer,
    pub scales: DeviceBuffer,
    pub features: usize,
    /// What the products are multiplied with.
    pub factor: f32,
}

impl std::fmt::Debug for QuantizedPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "QuantizedPart({} features of {})", self.features, self.layout.name)
    }
}

impl CudaPart {
    /// Rows of a file's tensor on the GPU.
    pub(in crate::linear) fn load(
        cuda: &CudaDevice,
        format: WeightFormat,
        bytes: FileBytes,
        (out_features, in_features): (usize, usize),
        policy: WeightPolicy,
    ) -> Result<Self, LinearError> {
        let short = LinearError::OutOfMemory { out_features, in_features };
        let layout = DeviceLayout::of(format).filter(|_| policy != WeightPolicy::Float32);
        let part = match layout {
            Some(layout) => load_quantized(cuda, layout, bytes, out_features, in_features),
            None => load_dense(cuda, format, bytes, out_features, in_features).map(Self::Dense),
        };
        part.map_err(|_| short)
    }

    pub(super) fn features(&self) -> usize {
        match self {
            Self::Dense(rows) => rows.rows(),
            Self::Quantized(part) => part.features,
        }
    }

    /// Memory of the part.
    pub(super) fn buffers_mut(&mut self) -> Vec<&mut DeviceBuffer> {
        match self {
            Self::Dense(rows) => vec![rows.cuda_buffer_mut().expect("it is a part on a GPU")],
            Self::Quantized(part) => vec![&mut part.codes, &mut part.scales],
        }
    }

    pub(super) fn num_bytes(&self) -> usize {
        match self {
            Self::Dense(rows) => rows.num_bytes(),
            Self::Quantized(part) => part.codes.bytes() + part.scales.bytes(),
        }
    }

    pub(super) fn scale_by(&mut self, factor: f32) {
        match self {
            Self::Dense(rows) => {
                let weights: Vec<f32> = rows.read_f32().iter().map(|w| w * factor).collect();
                rows.write_f32(&weights);
            }
            Self::Quantized(part) => part.factor *= factor,
        }
    }

    /// Its rows, whole tiles of them, again and again until there are `features`.
    pub(super) fn repeated(
        self,
        cuda: &CudaDevice,
        features: usize,
        in_features: usize,
    ) -> Result<Self, DeviceError> {
        let repeat = |buffer, bytes| DeviceBuffer::repeating(cuda.context(), buffer, bytes);
        Ok(match self {
            Self::Dense(rows) => {
                let bytes = 2 * features * in_features;
                let buffer = repeat(rows.cuda_buffer().expect("on a GPU"), bytes)?;
                Self::Dense(Tensor::on_cuda(buffer, DType::BF16, features, in_features))
            }
            Self::Quantized(part) => {
                assert!(part.features.is_multiple_of(TILE), "{} rows are no tiles", part.features);
                let (code_bytes, scale_bytes) = part.layout.tile_bytes(in_features);
                let num_tiles = features.div_ceil(TILE);
                let codes = repeat(&part.codes, num_tiles * code_bytes)?;
                let scales = repeat(&part.scales, num_tiles * scale_bytes)?;
                Self::Quantized(QuantizedPart { codes, scales, features, ..part })
            }
        })
    }

    /// The two as one part, where one launch can compute both.
    pub(super) fn joined(&self, next: &Self) -> Option<Self> {
        match (self, next) {
            (Self::Dense(a), Self::Dense(b)) => {
                Some(Self::Dense(Tensor::stacked_on_cuda(&[a, b]).ok()?))
            }
            (Self::Quantized(a), Self::Quantized(b)) => {
                let is_same = a.layout.name == b.layout.name && a.factor == b.factor;
                if !is_same || !a.features.is_multiple_of(TILE) {
                    return None;
                }
                Some(Self::Quantized(QuantizedPart {
                    layout: a.layout,
                    codes: DeviceBuffer::concatenated(&[&a.codes, &b.codes]).ok()?,
                    scales: DeviceBuffer::concatenated(&[&a.scales, &b.scales]).ok()?,
                    features: a.features + b.features,
                    factor: a.factor,
                }))
            }
            _ => None,
        }
    }
}

fn load_quantized(
    cuda: &CudaDevice,
    layout: DeviceLayout,
    bytes: FileBytes,
    out_features: usize,
    in_features: usize,
) -> Result<CudaPart, DeviceError> {
    let (code_bytes, scale_bytes) = layout.tile_bytes(in_features);
    let num_tiles = out_features.div_ceil(TILE);
    let codes = DeviceBuffer::zeroed(cuda.context(), num_tiles * code_bytes)?;
    let scales = DeviceBuffer::zeroed(cuda.context(), num_tiles * scale_bytes)?;
    let row_bytes = bytes.len() / out_features.max(1);
    let tiles_at_once = (BYTES_AT_ONCE / code_bytes).max(1);
    for first in (0..num_tiles).step_by(tiles_at_once) {
        let tiles = first..num_tiles.min(first + tiles_at_once);
        let rows = tiles.start * TILE..out_features.min(tiles.end * TILE);
        let range = rows.start * row_bytes..rows.end * row_bytes;
        let mut packed_codes = vec![0; tiles.len() * code_bytes];
        let mut packed_scales = vec![0; tiles.len() * scale_bytes];
        let work = bytes[range.clone()]
            .chunks(TILE * row_bytes)
            .zip(packed_codes.chunks_mut(code_bytes).zip(packed_scales.chunks_mut(scale_bytes)))
            .collect::<Vec<_>>();
        on_all_threads(work, |(rows, (codes, scales))| layout.pack(rows, row_bytes, codes, scales));
        codes.write(tiles.start * code_bytes, &packed_codes);
        scales.write(tiles.start * scale_bytes, &packed_scales);
        bytes.slice(range).expect("inside").release();
    }
    let part = QuantizedPart { layout, codes, scales, features: out_features, factor: 1.0 };
    Ok(CudaPart::Quantized(part))
}

/// Calls `run` with each of `work`, on as many threads as the machine has.
fn on_all_threads<T: Send>(work: Vec<T>, run: impl Fn(T) + Sync) {
    let num_threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut shares: Vec<Vec<T>> = Vec::new();
    shares.resize_with(num_threads.min(work.len()).max(1), Vec::new);
    let num_shares = shares.len();
    for (index, item) in work.into_iter().enumerate() {
        shares[index % num_shares].push(item);
    }
    std::thread::scope(|scope| {
        for share in shares {
            scope.spawn(|| share.into_iter().for_each(&run));
        }
    });
}

fn load_dense(
    cuda: &CudaDevice,
    format: WeightFormat,
    bytes: FileBytes,
    out_features: usize,
    in_features: usize,
) -> Result<Tensor, DeviceError> {
    let buffer = DeviceBuffer::zeroed(cuda.context(), 2 * out_features * in_features)?;
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
            let rows_of_file = bytes[range.clone()].chunks_exact(row_bytes);
            for (row_of_file, halves) in rows_of_file.zip(halves.chunks_exact_mut(in_features)) {
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
