//! Weights of unsigned integers in words of 32 bits: GPTQ and AWQ (`qweight`, `qzeros`, `scales`, `g_idx`; AutoRound writes
//! either), and compressed-tensors (`weight_packed`, `weight_scale`, `weight_zero_point`).

use anyhow::{Context, bail, ensure};
use quire_kernels::{
    FileBytes, GroupScales, GroupedWeight, Numbers, WordLayout, ZeroLayout, Zeros,
};

use super::method::MethodKind;
use super::{Method, Piece, Pieces};
use crate::weights::quoted;

pub(super) fn gptq_or_awq<'a>(
    pieces: &Pieces<'a>,
    method: &Method,
) -> anyhow::Result<GroupedWeight<'a>> {
    let (numbers, scales) = (pieces.require("qweight")?, pieces.require("scales")?);
    let group_of = pieces.get("g_idx").filter(|piece| piece.info.num_elements() > 0);
    let (rows, columns) = numbers.matrix()?;
    numbers.has_type(&["I32", "U32"])?;
    let (groups, out_of_scales) = scales.matrix()?;
    let (bits, layout, zero_layout, plus, shape) = match method.kind {
        MethodKind::Gptq { zero_plus } => {
            let bits = match group_of {
                // A mixture has layers of other widths.
                Some(piece) => 32 * rows / (piece.info.num_elements() as usize).max(1),
                None => method.bits,
            };
            let bits = supported_bits(&numbers, bits)?;
            let shape = (columns, rows * (32 / bits));
            (bits, WordLayout::AlongColumns, ZeroLayout::GroupsFirst, zero_plus, shape)
        }
        MethodKind::Awq => {
            ensure!(method.bits == 4, "AWQ of {} bits is not supported, only of 4", method.bits);
            let shape = (8 * columns, rows);
            (4, WordLayout::Interleaved, ZeroLayout::Interleaved, 0, shape)
        }
        MethodKind::ByName => bail!(
            "tensor {} belongs to GPTQ or AWQ, which the configuration does not name",
            quoted(&numbers.info.name)
        ),
    };
    ensure!(
        out_of_scales == shape.0,
        "tensor {} is [{groups}, {out_of_scales}], but the weight has {} output features",
        quoted(&scales.info.name),
        shape.0
    );
    let (_, group_size) = method.block_size((1, shape.1), (1, groups)).with_context(|| {
        format!(
            "tensor {} has {groups} groups, which do not divide rows of {}",
            quoted(&scales.info.name),
            shape.1
        )
    })?;
    let zeros = pieces.get("qzeros").map(|zeros| {
        Ok::<_, anyhow::Error>(Zeros { bits, layout: zero_layout, words: word_bytes(zeros)?, plus })
    });
    Ok(GroupedWeight {
        out_features: shape.0,
        in_features: shape.1,
        numbers: Numbers::Words { bits, layout, words: numbers.bytes },
        scales: GroupScales {
            bytes: scales.bytes,
            kind: scales.scale_kind()?,
            rows: 1,
            columns: group_size,
            transposed: true,
        },
        zeros: zeros.transpose()?,
        factor: 1.0,
        group_of: group_of.map(|piece| piece.words()).transpose()?,
    })
}

pub(super) fn compressed<'a>(
    pieces: &Pieces<'a>,
    packed: Piece<'a>,
    method: &Method,
) -> anyhow::Result<GroupedWeight<'a>> {
    packed.has_type(&["I32"])?;
    let (out_features, words) = packed.matrix()?;
    let bits = supported_bits(&packed, method.bits)?;
    let in_features = words * (32 / bits);
    let scales = pieces.require("weight_scale")?.scales((out_features, in_features), method)?;
    let zeros = pieces.get("weight_zero_point").map(|zeros| {
        let layout = ZeroLayout::FeaturesFirst;
        Ok::<_, anyhow::Error>(Zeros { bits, layout, words: word_bytes(zeros)?, plus: 0 })
    });
    let group_of = pieces.get("weight_g_idx").map(|piece| piece.words()).transpose()?;
    // Packed without an order, they are −1.
    let group_of = group_of.filter(|groups| groups.iter().any(|&group| group != u32::MAX));
    Ok(GroupedWeight {
        out_features,
        in_features,
        numbers: Numbers::Words { bits, layout: WordLayout::AlongRows, words: packed.bytes },
        scales,
        zeros: zeros.transpose()?,
        factor: 1.0,
        group_of,
    })
}

fn word_bytes(piece: Piece<'_>) -> anyhow::Result<FileBytes<'_>> {
    piece.has_type(&["I32", "U32"])?;
    Ok(piece.bytes)
}

fn supported_bits(piece: &Piece, bits: usize) -> anyhow::Result<usize> {
    ensure!(
        matches!(bits, 4 | 8),
        "tensor {} has numbers of {bits} bits; 4 and 8 are supported",
        quoted(&piece.info.name)
    );
    Ok(bits)
}
