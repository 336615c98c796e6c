//! Elements of a tensor to and from the host, wherever the tensor lies.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::{DType, Storage, Tensor, as_bytes};
use crate::cuda::DeviceBuffer;
use crate::device::DeviceError;
use crate::float8::{f32_to_float8, float8_to_f32};

impl Tensor {
    /// A copy of all bytes, wherever they lie, after all work on them that was launched.
    pub fn read_bytes(&self) -> Vec<u8> {
        match &self.storage {
            Some(Storage::Host(buffer)) => buffer.bytes().to_vec(),
            Some(Storage::Cuda(buffer)) => {
                let mut bytes = vec![0; buffer.bytes()];
                buffer.read(0, &mut bytes);
                bytes
            }
            None => panic!("only traced ops touch tensors without memory"),
        }
    }

    /// A copy in host memory.
    pub fn read(&self) -> Self {
        let copy = Self::host(self.dtype, self.rows, self.cols);
        let mut copy = copy.expect("a copy of live memory fits");
        copy.bytes_mut().copy_from_slice(&self.read_bytes());
        copy
    }

    /// Replaces the bytes that begin at `start`, wherever they lie.
    pub fn write_bytes(&mut self, start: usize, bytes: &[u8]) {
        match &mut self.storage {
            Some(Storage::Host(buffer)) => {
                buffer.bytes_mut()[start..start + bytes.len()].copy_from_slice(bytes);
            }
            Some(Storage::Cuda(buffer)) => buffer.write(start, bytes),
            None => panic!("only traced ops touch tensors without memory"),
        }
    }

    /// As `read_bytes`, of `range`.
    pub(crate) fn read_range(&self, range: Range<usize>) -> Vec<u8> {
        match &self.storage {
            Some(Storage::Cuda(buffer)) => {
                let mut bytes = vec![0; range.len()];
                buffer.read(range.start, &mut bytes);
                bytes
            }
            _ => self.bytes()[range].to_vec(),
        }
    }

    /// Copies bytes to another place of the same tensor.
    pub(crate) fn copy_within(&mut self, range: Range<usize>, start: usize) {
        match &mut self.storage {
            Some(Storage::Cuda(buffer)) => {
                if range.start != start {
                    buffer.copy(start, buffer, range.start, range.len());
                }
            }
            _ => self.bytes_mut().copy_within(range, start),
        }
    }

    /// Tensors of one type and width on one GPU, as one with all their rows.
    pub(crate) fn stacked_on_cuda(parts: &[&Self]) -> Result<Self, DeviceError> {
        let buffers: Vec<&DeviceBuffer> = parts
            .iter()
            .map(|part| part.cuda_buffer().unwrap_or_else(|| panic!("{part:?} is not on a GPU")))
            .collect();
        let rows = parts.iter().map(|part| part.rows).sum();
        let buffer = DeviceBuffer::concatenated(&buffers)?;
        Ok(Self::on_cuda(buffer, parts[0].dtype, rows, parts[0].cols))
    }

    /// All elements, wherever they lie, widened; of floats.
    pub fn read_f32(&self) -> Vec<f32> {
        let bytes = self.read_bytes();
        let halves = || bytes.as_chunks::<2>().0.iter().map(|&bytes| u16::from_le_bytes(bytes));
        match self.dtype {
            DType::F32 => {
                bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
            }
            DType::F16 => halves().map(|bits| f16::from_bits(bits).to_f32()).collect(),
            DType::BF16 => halves().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
            DType::F8E4M3 => bytes.into_iter().map(float8_to_f32).collect(),
            dtype => panic!("{dtype:?} are no floats"),
        }
    }

    /// Sets all elements, wherever they lie, rounded to nearest even; of floats.
    pub fn write_f32(&mut self, values: &[f32]) {
        assert_eq!(values.len(), self.rows * self.cols, "values do not fill {self:?}");
        let to_bytes = |bits: Vec<u16>| bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let bytes: Vec<u8> = match self.dtype {
            DType::F32 => return self.write_bytes(0, as_bytes(values)),
            DType::F16 => {
                let mut halves = vec![f16::ZERO; values.len()];
                halves.convert_from_f32_slice(values);
                to_bytes(halves.into_iter().map(f16::to_bits).collect())
            }
            DType::BF16 => {
                let mut halves = vec![bf16::ZERO; values.len()];
                halves.convert_from_f32_slice(values);
                to_bytes(halves.into_iter().map(bf16::to_bits).collect())
            }
            DType::F8E4M3 => values.iter().copied().map(f32_to_float8).collect(),
            dtype => panic!("{dtype:?} are no floats"),
        };
        self.write_bytes(0, &bytes);
    }
}
