//! What attention looks up by position: rotations, and how much queries grow.

use anyhow::Context;
use quire_kernels::{DType, Device, RopeTable, Tensor};

use crate::models::DecoderSpec;

/// Tables that all layers share.
pub struct Positions {
    /// In the order of `DecoderSpec::ropes`.
    pub ropes: Vec<RopeTable>,
    /// `[1, max_model_len]`.
    pub query_scales: Option<Tensor>,
}

impl Positions {
    pub fn new(spec: &DecoderSpec, max_model_len: usize, device: &Device) -> anyhow::Result<Self> {
        let table = |rope: &crate::models::rope::RopeSpec| rope.table(max_model_len);
        let ropes: Option<Vec<RopeTable>> = spec.ropes.iter().map(table).collect();
        let query_scales = spec.query_scale.map(|scale| {
            let factors: Vec<f32> = (0..max_model_len).map(|p| scale.factor(p)).collect();
            device.tensor(DType::F32, &factors, 1, max_model_len)
        });
        let ropes = ropes
            .with_context(|| format!("no memory for the rotations of {max_model_len} positions"))?;
        let ropes = match device {
            Device::Cuda(_) => {
                let copies = ropes.iter().map(|table| table.copied_to(device));
                copies.collect::<Result<_, _>>()?
            }
            _ => ropes,
        };
        Ok(Self { ropes, query_scales: query_scales.transpose()? })
    }

    /// Shapes without memory, for `Device::Trace`.
    pub fn shape_only(spec: &DecoderSpec, max_model_len: usize) -> Self {
        let ropes = spec.ropes.iter();
        let empty = |_| Tensor::shape_only(DType::F32, 1, max_model_len);
        Self {
            ropes: ropes
                .map(|rope| RopeTable::shape_only(rope.rotary_dim, max_model_len, rope.style))
                .collect(),
            query_scales: spec.query_scale.map(empty),
        }
    }
}
