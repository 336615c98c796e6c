//! Weights whose numbers and scales lie in tensors of their own, as most quantized safetensors have them:
//! `weight[o][k] = (number[o][k] − zero[o][group]) · scale[o][group] · factor`.
//!
//! `numbers` reads the numbers, `scales` the scales and zeros, `part` cuts some out for a rank, `rows` takes single rows,
//! `load` packs them: integers and 4-bit floats into tiles for integer dot products, 8-bit floats as they are. Packed numbers
//! have the values that `dequantize_row` gives.

mod load;
mod numbers;
mod part;
mod rows;
mod scales;

pub use numbers::{Numbers, WordLayout};
pub use part::GroupedPart;
pub use rows::SelectedRows;
pub use scales::{GroupScales, ScaleKind, ZeroLayout, Zeros};

use super::LinearError;
use super::mxfp4;
use super::packed::{BLOCK, BlockScales, Codes, GroupScaleKind, Packing, Scales};

/// A weight `[out_features, in_features]`. What lies in which order is checked when it is loaded.
pub struct GroupedWeight<'a> {
    pub out_features: usize,
    pub in_features: usize,
    pub numbers: Numbers<'a>,
    pub scales: GroupScales<'a>,
    /// `None`: the middle of the range of unsigned numbers.
    pub zeros: Option<Zeros<'a>>,
    /// Multiplies all scales.
    pub factor: f32,
    /// The group of each k, where groups are no runs of neighbours (act-order).
    pub group_of: Option<Vec<u32>>,
}

impl GroupedWeight<'_> {
    /// The weights of one output feature; `out` has `in_features` elements. The plain formula.
    pub fn dequantize_row(&self, feature: usize, out: &mut [f32]) {
        for (k, out) in out.iter_mut().enumerate() {
            let group = match &self.group_of {
                Some(group_of) => group_of[k] as usize,
                None => self.scales.group(k),
            };
            let number = self.numbers.value(self.shape(), feature, k);
            let zero = self.zero(feature, group);
            *out = (number - f32::from(zero))
                * (self.scales.value(self.shape(), feature, group) * self.factor);
        }
    }

    /// Bytes that the weight takes when it is packed; `None` when it cannot be loaded.
    pub fn packed_bytes(&self) -> Option<usize> {
        self.check().ok()?;
        match self.packing() {
            Ok(Some(packing)) => {
                super::packed::packed_bytes(packing, self.out_features, self.in_features)
            }
            Ok(None) => self.out_features.checked_mul(self.in_features),
            Err(_) => None,
        }
    }

    fn shape(&self) -> (usize, usize) {
        (self.out_features, self.in_features)
    }

    fn zero(&self, feature: usize, group: usize) -> u8 {
        match &self.zeros {
            Some(zeros) => zeros.at(self.shape(), self.num_groups(), feature, group),
            None => self.numbers.middle(),
        }
    }

    fn num_groups(&self) -> usize {
        self.in_features.div_ceil(self.scales.columns.max(1)).max(1)
    }

    /// How the weight is packed; `None`: as floats of 8 bits. An error says why it cannot be.
    fn packing(&self) -> Result<Option<Packing>, LinearError> {
        if matches!(self.numbers, Numbers::Float8(_)) {
            return Ok(None);
        }
        let problem = |text: String| Err(LinearError::Groups(text));
        let (in_features, columns) = (self.in_features, self.scales.columns);
        if !in_features.is_multiple_of(BLOCK) {
            return problem(format!("rows of {in_features} are no multiple of {BLOCK}"));
        }
        let codes = match (&self.numbers, self.scales.kind) {
            (Numbers::Float4(_), kind) => {
                let scales = match (kind, columns) {
                    (ScaleKind::PowerOfTwo, 32) => Scales::Exponent,
                    (ScaleKind::Float8, 16) => Scales::MicroFloats,
                    _ => {
                        return problem(format!("4-bit floats in groups of {columns} by {kind:?}"));
                    }
                };
                return Ok(Some(Packing { codes: Codes::Table(&mxfp4::DOUBLED), scales }));
            }
            (numbers, _) if numbers.middle() == 8 => Codes::Four,
            _ => Codes::Eight,
        };
        let kind = match self.scales.kind {
            ScaleKind::F32 => GroupScaleKind::F32,
            ScaleKind::F16 => GroupScaleKind::F16,
            ScaleKind::Bf16 => GroupScaleKind::Bf16,
            other => return problem(format!("integers with scales of {other:?}")),
        };
        if columns < in_features && !columns.is_multiple_of(BLOCK) {
            return problem(format!("groups of {columns} weights are no multiple of {BLOCK}"));
        }
        // As if there were none where all are in the middle.
        let zeros = match &self.zeros {
            Some(zeros) => !zeros.all_are(self.shape(), self.num_groups(), self.numbers.middle()),
            None => false,
        };
        if zeros && codes == Codes::Eight {
            return problem("8-bit numbers with zero points of their own".to_owned());
        }
        let blocks = columns.min(in_features).div_ceil(BLOCK);
        Ok(Some(Packing { codes, scales: Scales::Groups { kind, blocks, zeros } }))
    }

    /// The fields of unit `unit` of a packed row.
    fn block_scales(&self, packing: Packing, feature: usize, unit: usize) -> BlockScales {
        let mut fields = BlockScales::default();
        let raw =
            |group: usize| self.scales.raw(self.shape(), feature, group.min(self.num_groups() - 1));
        match packing.scales {
            Scales::Exponent => fields.bytes[0] = raw(unit) as u8,
            Scales::MicroFloats => {
                for (i, byte) in fields.bytes[..4].iter_mut().enumerate() {
                    *byte = raw(4 * unit + i) as u8;
                }
            }
            _ => {
                let bits = raw(unit);
                fields.halves = [bits as u16, (bits >> 16) as u16];
                fields.bytes[0] = self.zero(feature, unit.min(self.num_groups() - 1));
            }
        }
        fields
    }

    /// For each k in the order of groups, where it lies in the weight; `None`: there already.
    fn order(&self) -> Result<Option<Vec<u32>>, LinearError> {
        let Some(group_of) = &self.group_of else { return Ok(None) };
        let problem = |text: String| Err(LinearError::Groups(text));
        if group_of.len() != self.in_features {
            return problem(format!("groups of {} inputs", group_of.len()));
        }
        let mut order: Vec<u32> = (0..self.in_features as u32).collect();
        order.sort_by_key(|&k| group_of[k as usize]);
        let wrong = order
            .iter()
            .enumerate()
            .find(|&(place, &k)| group_of[k as usize] as usize != self.scales.group(place));
        if let Some((_, &k)) = wrong {
            let (group, size) = (group_of[k as usize], self.scales.columns);
            return problem(format!("group {group} has not {size} inputs, as others do"));
        }
        let is_sorted = order.iter().enumerate().all(|(place, &k)| place == k as usize);
        Ok((!is_sorted).then_some(order))
    }

    /// Whether all lengths are as the shape asks.
    fn check(&self) -> Result<(), LinearError> {
        let (out_features, in_features) = self.shape();
        if out_features == 0
            || in_features == 0
            || self.scales.rows == 0
            || self.scales.columns == 0
        {
            return Err(LinearError::Groups("it is empty".to_owned()));
        }
        let rows = out_features.div_ceil(self.scales.rows);
        let zeros = self.zeros.as_ref();
        let lengths = [
            ("numbers", Some(self.numbers.bytes().len()), self.numbers.num_bytes(self.shape())),
            (
                "scales",
                Some(self.scales.bytes.len()),
                rows.checked_mul(self.num_groups() * self.scales.kind.num_bytes()),
            ),
            (
                "zeros",
                zeros.map(|zeros| zeros.words.len()),
                zeros.and_then(|zeros| zeros.num_bytes(self.shape(), self.num_groups())),
            ),
        ];
        for (what, actual, expected) in lengths {
            if actual != expected {
                let [actual, expected] = [actual, expected].map(Option::unwrap_or_default);
                return Err(LinearError::Groups(format!(
                    "its {what} have {actual} bytes; {out_features}x{in_features} asks for {expected}"
                )));
            }
        }
        let out_of_range = |group: &u32| *group as usize >= self.num_groups();
        if self.group_of.iter().flatten().any(out_of_range) {
            return Err(LinearError::Groups("an input's group is not there".to_owned()));
        }
        Ok(())
    }
}
