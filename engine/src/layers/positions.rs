//! What attention looks up by position: rotations, and how much queries grow.

use anyhow::Context;
use quire_kernels::{DType, Device, RopeTable, Tensor};

use crate::models::DecoderSpec;
use crate::models::rope::RopeSpec;

/// Tables that all layers share.
pub struct Positions {
    /// In the order of `DecoderSpec::ropes`.
    pub ropes: Vec<RopeTable>,
    /// `[1, max_model_len]`.
    pub query_scales: Option<Tensor>,
}

impl Positions {
    pub fn new(spec: &DecoderSpec, max_model_len: usize, device: &Device) -> anyhow::Result<Self> {
        let query_scales = spec.query_scale.map(|scale| {
            let factors: Vec<f32> = (0..max_model_len).map(|p| scale.factor(p)).collect();
            device.tensor(DType::F32, &factors, 1, max_model_len)
        });
        let ropes = rope_tables(&spec.ropes, max_model_len, device)?;
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

/// The tables of some rotations, for positions below `max_model_len`.
pub fn rope_tables(
    ropes: &[RopeSpec],
    max_model_len: usize,
    device: &Device,
) -> anyhow::Result<Vec<RopeTable>> {
    let tables: Option<Vec<RopeTable>> =
        ropes.iter().map(|rope| rope.table(max_model_len)).collect();
    let tables = tables
        .with_context(|| format!("no memory for the rotations of {max_model_len} positions"))?;
    match device {
        Device::Cuda(_) => {
            let copies = tables.iter().map(|table| table.copied_to(device));
            Ok(copies.collect::<Result<_, _>>()?)
        }
        _ => Ok(tables),
    }
}
