//! Weights of any size from a few rows, for models without a checkpoint: a GPU repeats the rows itself.

use super::cuda_weight::CudaPart;
use super::format::WeightFormat;
use super::weight::{LinearError, LinearWeight, Part, WeightPolicy};
use crate::device::Device;

impl LinearWeight {
    /// A weight `[out_features, in_features]` whose rows are those of `bytes` (whole rows of `format`), again and again.
    /// On a GPU they travel once; their number must be a multiple of 16 there, or `out_features`.
    pub fn repeating(
        device: &Device,
        format: WeightFormat,
        bytes: &[u8],
        (out_features, in_features): (usize, usize),
        policy: WeightPolicy,
    ) -> Result<Self, LinearError> {
        let row_bytes = format.row_bytes(in_features).filter(|&bytes| bytes > 0);
        let row_bytes = row_bytes.ok_or(LinearError::Blocks { format, in_features })?;
        let num_rows = bytes.len() / row_bytes;
        if num_rows >= out_features {
            let bytes = &bytes[..out_features * row_bytes];
            return Self::from_gguf(device, format, bytes, out_features, in_features, policy);
        }
        let short = LinearError::OutOfMemory { out_features, in_features };
        if let Device::Cuda(cuda) = device {
            let part = CudaPart::load(cuda, format, bytes.into(), (num_rows, in_features), policy)?;
            let part = part.repeated(cuda, out_features, in_features).map_err(|_| short)?;
            return Ok(Self::of_parts(vec![Part::Cuda(part)], out_features, in_features));
        }
        let mut all = Vec::new();
        let len = row_bytes.checked_mul(out_features).ok_or(short.clone())?;
        all.try_reserve_exact(len).map_err(|_| short)?;
        while all.len() < len {
            all.extend_from_slice(&bytes[..bytes.len().min(len - all.len())]);
        }
        Self::from_gguf(device, format, &all, out_features, in_features, policy)
    }
}
