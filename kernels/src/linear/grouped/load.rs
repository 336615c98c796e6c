//! From a grouped weight to a `LinearWeight`.

use super::super::cuda_weight::CudaPart;
use super::super::packed::PackedWeight;
use super::super::weight::{DensePart, Part};
use super::{GroupedWeight, Numbers};
use crate::device::{CpuDevice, Device};
use crate::linear::packed::{BLOCK, Packing, TILE};
use crate::linear::{LinearError, LinearWeight, WeightFormat, WeightPolicy};
use crate::mapped_file::FileBytes;
use crate::tensor::{DType, Tensor};

impl LinearWeight {
    /// Packs `weight`, all threads at once, or with `WeightPolicy::Float32` dequantizes it.
    pub fn from_groups(
        device: &Device,
        weight: &GroupedWeight,
        policy: WeightPolicy,
    ) -> Result<Self, LinearError> {
        let (out_features, in_features) = weight.shape();
        let cpu = match device {
            Device::Cpu(cpu) => cpu,
            Device::Cuda(cuda) => {
                weight.check()?;
                let rows = weight.float32_bytes();
                let format = WeightFormat::F32;
                let shape = (out_features, in_features);
                let part = CudaPart::load(cuda, format, (&rows).into(), shape, policy)?;
                return Ok(Self::of_parts(vec![Part::Cuda(part)], out_features, in_features));
            }
            Device::Trace(_) => return Ok(Self::shape_only(out_features, in_features)),
        };
        weight.check()?;
        let order = weight.order()?;
        let part = match (policy, weight.packing()?, &weight.numbers) {
            (WeightPolicy::Float32, ..) => weight.float32(cpu).map(Part::Dense),
            (_, Some(packing), _) => weight.pack(cpu, packing, order).map(Part::Packed),
            (_, None, Numbers::Float8(bytes)) => weight.float8(cpu, *bytes).map(Part::Dense),
            (_, None, _) => unreachable!("numbers that are not floats are packed"),
        };
        let part = part.ok_or(LinearError::OutOfMemory { out_features, in_features })?;
        weight.numbers.bytes().release();
        Ok(Self::of_parts(vec![part], out_features, in_features))
    }
}

impl GroupedWeight<'_> {
    /// All rows as little-endian float32.
    fn float32_bytes(&self) -> Vec<u8> {
        let mut row = vec![0.0; self.in_features];
        let mut bytes = Vec::with_capacity(4 * self.out_features * self.in_features);
        for feature in 0..self.out_features {
            self.dequantize_row(feature, &mut row);
            bytes.extend(row.iter().flat_map(|value| value.to_le_bytes()));
        }
        bytes
    }

    /// `None` when memory is short, as below.
    fn float32(&self, cpu: &CpuDevice) -> Option<DensePart> {
        let mut rows = Tensor::host(DType::F32, self.out_features, self.in_features)?;
        let out = rows.view_mut();
        cpu.pool.run(self.out_features, &|feature| {
            // SAFETY: each task writes its own row.
            self.dequantize_row(feature, unsafe { out.row_f32_shared(feature) });
        });
        Some(DensePart::of_float32(rows))
    }

    fn float8(&self, cpu: &CpuDevice, bytes: FileBytes) -> Option<DensePart> {
        let rows = self.out_features.div_ceil(self.scales.rows);
        let scales = (0..rows).flat_map(|row| {
            let feature = row * self.scales.rows;
            (0..self.num_groups())
                .map(move |group| self.scales.value(self.shape(), feature, group) * self.factor)
        });
        let shared = (self.scales.rows, self.scales.columns.min(self.in_features));
        DensePart::float8(cpu, bytes, self.in_features, scales.collect(), shared)
    }

    fn pack(
        &self,
        cpu: &CpuDevice,
        packing: Packing,
        order: Option<Vec<u32>>,
    ) -> Option<PackedWeight> {
        let (out_features, in_features) = self.shape();
        let mut packed = PackedWeight::empty(packing, out_features, in_features)?;
        // What an order makes of k is undone when x is rounded.
        packed.fill(cpu, &|tile, scales, pairs| {
            let features = tile * TILE..out_features.min((tile + 1) * TILE);
            for (unit, fields) in scales.chunks_exact_mut(packing.scales.block_bytes()).enumerate()
            {
                for (place, feature) in features.clone().enumerate() {
                    packing.scales.pack(&self.block_scales(packing, feature, unit), place, fields);
                }
            }
            let mut codes = [[0; 2 * BLOCK]; TILE];
            for (pair, bytes) in pairs.chunks_exact_mut(packing.codes.pair_bytes()).enumerate() {
                let order = order.as_deref();
                self.numbers.fill(self.shape(), tile, 2 * BLOCK * pair, order, &mut codes);
                for (place, codes) in codes.iter().enumerate().take(features.len()) {
                    packing.codes.pack(codes, place, bytes);
                }
            }
        });
        packed.factor = self.factor;
        packed.order = order;
        Some(packed)
    }
}
