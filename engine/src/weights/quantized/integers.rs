//! Weights of signed bytes with `weight_scale` (compressed-tensors, W8A8).

use anyhow::ensure;
use quire_kernels::{GroupedWeight, Numbers};

use super::{Method, Piece, Pieces};
use crate::weights::quoted;

pub(super) fn weight<'a>(
    pieces: &Pieces<'a>,
    weight: Piece<'a>,
    method: &Method,
) -> anyhow::Result<GroupedWeight<'a>> {
    let (out_features, in_features) = weight.matrix()?;
    if let Some(zeros) = pieces.get("weight_zero_point") {
        let name = quoted(&zeros.info.name);
        ensure!(
            zeros.bytes.iter().all(|&byte| byte == 0),
            "{name}: zero points of 8-bit weights are not supported"
        );
    }
    Ok(GroupedWeight {
        out_features,
        in_features,
        numbers: Numbers::Int8(weight.bytes),
        scales: pieces.require("weight_scale")?.scales((out_features, in_features), method)?,
        zeros: None,
        factor: 1.0,
        group_of: None,
    })
}
