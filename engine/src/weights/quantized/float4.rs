//! Weights of 4-bit floats (E2M1), two to a byte: NVFP4 with E4M3 scales for 16 and a factor for the tensor (ModelOpt's
//! `weight_scale_2`, or its inverse, the `weight_global_scale` of compressed-tensors), MXFP4 with powers of two for 32.

use anyhow::ensure;
use quire_kernels::{GroupScales, GroupedWeight, Numbers, ScaleKind};

use super::{Method, Piece, Pieces};
use crate::weights::quoted;

pub(super) fn weight<'a>(
    pieces: &Pieces<'a>,
    packed: Piece<'a>,
    _method: &Method,
) -> anyhow::Result<GroupedWeight<'a>> {
    packed.has_type(&["U8"])?;
    let (out_features, half) = packed.matrix()?;
    let in_features = 2 * half;
    let scales = pieces.require("weight_scale")?;
    let kind = scales.scale_kind()?;
    let columns = if kind == ScaleKind::Float8 { 16 } else { 32 };
    let shape = scales.matrix()?;
    ensure!(
        shape == (out_features, in_features.div_ceil(columns)),
        "tensor {} is [{}, {}], but a weight of [{out_features}, {in_features}] has a scale for \
         each {columns} weights",
        quoted(&scales.info.name),
        shape.0,
        shape.1
    );
    let factor = match (kind, pieces.get("weight_global_scale")) {
        (ScaleKind::Float8, Some(inverse)) => {
            let number = inverse.number()?;
            ensure!(number != 0.0, "tensor {} is 0", quoted(&inverse.info.name));
            1.0 / number
        }
        (ScaleKind::Float8, None) => pieces.require("weight_scale_2")?.number()?,
        _ => 1.0,
    };
    Ok(GroupedWeight {
        out_features,
        in_features,
        numbers: Numbers::Float4(packed.bytes),
        scales: GroupScales { bytes: scales.bytes, kind, rows: 1, columns, transposed: false },
        zeros: None,
        factor,
        group_of: None,
    })
}
