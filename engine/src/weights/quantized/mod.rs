//! Quantized safetensors: what tensors beside a weight mean. One file a family of layouts; kernels read the numbers.
//!
//! A weight lies in tensors that share a name and differ in its last part (`qweight`, `scales`, …). Those present say what
//! it is; the configuration says what they leave open, and whether the method is one that is known at all.

mod float4;
mod float8;
mod integers;
mod method;
mod words;

use anyhow::{Context, bail, ensure};
use quire_kernels::{FileBytes, GroupScales, GroupedWeight, ScaleKind};

use super::quoted;
use super::safetensors::TensorInfo;

pub use method::Method;

/// Last parts of the names of tensors that belong to a weight.
const PARTS: [&str; 12] = [
    "weight_scale",
    "weight_scale_inv",
    "weight_scale_2",
    "weight_global_scale",
    "weight_packed",
    "weight_shape",
    "weight_zero_point",
    "weight_g_idx",
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
];

/// Last parts of tensors that say how others round activations and caches: numbers here need none of them.
const NOT_NEEDED: [&str; 8] = [
    "input_scale",
    "input_global_scale",
    "input_zero_point",
    "activation_scale",
    "k_scale",
    "v_scale",
    "q_scale",
    "prob_scale",
];

/// What a name's last part makes of a tensor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It belongs to the weight of that name.
    Part {
        weight: String,
        part: &'static str,
    },
    NotNeeded,
    Other,
}

/// The role of a tensor in a checkpoint that is quantized.
pub(super) fn role(name: &str) -> Role {
    let Some((module, last)) = name.rsplit_once('.') else { return Role::Other };
    if NOT_NEEDED.contains(&last) {
        return Role::NotNeeded;
    }
    match PARTS.iter().find(|part| **part == last) {
        Some(part) => Role::Part { weight: format!("{module}.weight"), part },
        None => Role::Other,
    }
}

/// A tensor of a weight and its data.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub part: &'static str,
    pub info: &'a TensorInfo,
    pub bytes: FileBytes<'a>,
}

/// All tensors of a weight.
pub(super) struct Pieces<'a> {
    pub pieces: Vec<Piece<'a>>,
}

impl<'a> Pieces<'a> {
    /// The weight that they make.
    pub(super) fn weight(&self, method: &Method) -> anyhow::Result<GroupedWeight<'a>> {
        if self.has("qweight") {
            return words::gptq_or_awq(self, method);
        }
        if let Some(packed) = self.get("weight_packed") {
            return match packed.info.dtype.as_str() {
                "U8" => float4::weight(self, packed, method),
                _ => words::compressed(self, packed, method),
            };
        }
        let weight = self.require("weight")?;
        match weight.info.dtype.as_str() {
            "F8_E4M3" => float8::weight(self, weight, method),
            "I8" => integers::weight(self, weight, method),
            "U8" => float4::weight(self, weight, method),
            other => bail!(
                "tensor {} has element type {}, but {} beside it says that it is quantized",
                quoted(&weight.info.name),
                quoted(other),
                self.others()
            ),
        }
    }

    pub(super) fn num_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.info.num_bytes).sum()
    }

    fn has(&self, part: &str) -> bool {
        self.get(part).is_some()
    }

    fn get(&self, part: &str) -> Option<Piece<'a>> {
        self.pieces.iter().find(|piece| piece.part == part).copied()
    }

    fn require(&self, part: &str) -> anyhow::Result<Piece<'a>> {
        self.get(part).with_context(|| {
            let first = self.pieces.first().map_or("", |piece| piece.info.name.as_str());
            let module = first.rsplit_once('.').map_or(first, |(module, _)| module);
            format!(
                "tensor {} is missing beside {}",
                quoted(&format!("{module}.{part}")),
                self.others()
            )
        })
    }

    fn others(&self) -> String {
        let names: Vec<String> = self.pieces.iter().map(|piece| quoted(piece.part)).collect();
        names.join(", ")
    }
}

impl<'a> Piece<'a> {
    /// Rows and columns; a vector is a row.
    fn matrix(&self) -> anyhow::Result<(usize, usize)> {
        Ok(match self.info.shape[..] {
            [columns] => (1, columns as usize),
            [rows, columns] => (rows as usize, columns as usize),
            _ => bail!(
                "tensor {} has {} dimensions, not 1 or 2",
                quoted(&self.info.name),
                self.info.shape.len()
            ),
        })
    }

    /// Fails unless the element type is one of `expected`.
    fn has_type(&self, expected: &[&str]) -> anyhow::Result<()> {
        ensure!(
            expected.contains(&self.info.dtype.as_str()),
            "tensor {} has element type {}, not {}",
            quoted(&self.info.name),
            quoted(&self.info.dtype),
            expected.join(" or ")
        );
        Ok(())
    }

    /// A tensor of one float32.
    fn number(&self) -> anyhow::Result<f32> {
        self.has_type(&["F32"])?;
        let bytes = self.bytes.get().try_into().ok();
        let bytes = bytes.with_context(|| {
            format!("tensor {} has {:?} numbers, not 1", quoted(&self.info.name), self.info.shape)
        })?;
        let number = f32::from_le_bytes(bytes);
        ensure!(number.is_finite(), "tensor {} is {number}", quoted(&self.info.name));
        Ok(number)
    }

    /// A tensor of 32-bit numbers.
    fn words(&self) -> anyhow::Result<Vec<u32>> {
        self.has_type(&["I32", "U32"])?;
        let (words, _) = self.bytes.get().as_chunks::<4>();
        Ok(words.iter().map(|&word| u32::from_le_bytes(word)).collect())
    }

    fn scale_kind(&self) -> anyhow::Result<ScaleKind> {
        self.has_type(&["F32", "F16", "BF16", "F8_E4M3", "F8_E8M0", "U8"])?;
        Ok(match self.info.dtype.as_str() {
            "F32" => ScaleKind::F32,
            "F16" => ScaleKind::F16,
            "BF16" => ScaleKind::Bf16,
            "F8_E4M3" => ScaleKind::Float8,
            _ => ScaleKind::PowerOfTwo,
        })
    }

    /// Scales of a weight `[out_features, in_features]`, one number, one for each feature, or a matrix of them whose place
    /// decides what they are for.
    fn scales(&self, shape: (usize, usize), method: &Method) -> anyhow::Result<GroupScales<'a>> {
        let (out_features, in_features) = shape;
        let of = |rows, columns| -> anyhow::Result<GroupScales<'a>> {
            let (bytes, kind) = (self.bytes, self.scale_kind()?);
            Ok(GroupScales { bytes, kind, rows, columns, transposed: false })
        };
        match self.info.shape[..] {
            [] | [1] | [1, 1] => of(out_features, in_features),
            [rows] if rows == out_features as u64 => of(1, in_features),
            [rows, columns] => {
                let (rows, columns) = (rows as usize, columns as usize);
                let fitting = method.block_size(shape, (rows, columns)).with_context(|| {
                    format!(
                        "tensor {} is [{rows}, {columns}], which does not divide a weight of \
                         [{out_features}, {in_features}]",
                        quoted(&self.info.name)
                    )
                })?;
                of(fitting.0, fitting.1)
            }
            _ => bail!(
                "tensor {} is {:?}, which does not divide a weight of [{out_features}, {in_features}]",
                quoted(&self.info.name),
                self.info.shape
            ),
        }
    }
}
