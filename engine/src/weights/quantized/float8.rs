//! Weights of 8-bit floats (E4M3) with `weight_scale` or, in DeepSeek's naming, `weight_scale_inv`: for the whole tensor,
//! each output feature, blocks or groups. Activations stay floats, whatever scales the files have for them.

use quire_kernels::{GroupedWeight, Numbers};

use super::{Method, Piece, Pieces};

pub(super) fn weight<'a>(
    pieces: &Pieces<'a>,
    weight: Piece<'a>,
    method: &Method,
) -> anyhow::Result<GroupedWeight<'a>> {
    let (out_features, in_features) = weight.matrix()?;
    let scales = match pieces.get("weight_scale_inv") {
        Some(scales) => scales,
        None => pieces.require("weight_scale")?,
    };
    Ok(GroupedWeight {
        out_features,
        in_features,
        numbers: Numbers::Float8(weight.bytes),
        scales: scales.scales((out_features, in_features), method)?,
        zeros: None,
        factor: 1.0,
        group_of: None,
    })
}
