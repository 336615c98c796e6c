//! Some rows of a grouped weight, in an order of their own: files of some architectures have the parts of a projection
//! interleaved.

use super::{GroupScales, GroupedWeight, Numbers, ScaleKind, WordLayout, ZeroLayout, Zeros};
use crate::linear::LinearError;

/// Rows taken out of a weight.
pub struct SelectedRows {
    shape: (usize, usize),
    kind: Kind,
    numbers: Vec<u8>,
    scale_kind: ScaleKind,
    group_size: usize,
    scales: Vec<u8>,
    /// Bits, what is added to each, and the numbers in words.
    zeros: Option<(usize, u8, Vec<u8>)>,
    factor: f32,
    group_of: Option<Vec<u32>>,
}

#[derive(Clone, Copy)]
enum Kind {
    Float8,
    Float4,
    Int8,
    Words { bits: usize },
}

impl GroupedWeight<'_> {
    /// The rows `order`, which must be there.
    pub fn select(&self, order: &[usize]) -> Result<SelectedRows, LinearError> {
        self.check()?;
        let (out_features, in_features) = self.shape();
        assert!(order.iter().all(|&row| row < out_features), "a row beyond {out_features}");
        let kind = match self.numbers {
            Numbers::Float8(_) => Kind::Float8,
            Numbers::Float4(_) => Kind::Float4,
            Numbers::Int8(_) => Kind::Int8,
            Numbers::Words { bits, .. } if in_features.is_multiple_of(32 / bits) => {
                Kind::Words { bits }
            }
            Numbers::Words { .. } => {
                return Err(LinearError::Groups(format!(
                    "rows of {in_features} numbers do not fill whole words"
                )));
            }
        };
        let size = self.scales.kind.num_bytes();
        let groups = || 0..self.num_groups();
        let scale = |row: usize, group: usize| {
            self.scales.raw(self.shape(), row, group).to_le_bytes().into_iter().take(size)
        };
        let scales =
            order.iter().flat_map(|&row| groups().flat_map(move |group| scale(row, group)));
        Ok(SelectedRows {
            shape: (order.len(), in_features),
            kind,
            numbers: order.iter().flat_map(|&row| self.row_bytes(row)).collect(),
            scale_kind: self.scales.kind,
            group_size: self.scales.columns,
            scales: scales.collect(),
            zeros: self.zeros.as_ref().map(|zeros| {
                let raw = |&row: &usize, group| {
                    let zero = zeros.at(self.shape(), self.num_groups(), row, group);
                    u32::from(zero.wrapping_sub(zeros.plus))
                };
                let words = order.chunks(32 / zeros.bits).flat_map(|rows| {
                    groups().flat_map(move |group| {
                        let numbers = rows.iter().map(|row| raw(row, group));
                        word(numbers, zeros.bits).to_le_bytes()
                    })
                });
                (zeros.bits, zeros.plus, words.collect())
            }),
            factor: self.factor,
            group_of: self.group_of.clone(),
        })
    }

    /// The numbers of one row, row after row of words where there are words.
    fn row_bytes(&self, row: usize) -> Vec<u8> {
        let (out_features, in_features) = self.shape();
        match &self.numbers {
            Numbers::Words { bits, .. } => {
                let code = |k| u32::from(self.numbers.code((out_features, in_features), row, k));
                let firsts = (0..in_features).step_by(32 / bits);
                let words = firsts.map(|first| word((first..first + 32 / bits).map(code), *bits));
                words.flat_map(u32::to_le_bytes).collect()
            }
            numbers => {
                let bytes = numbers.bytes();
                let len = bytes.len() / out_features;
                bytes[row * len..(row + 1) * len].to_vec()
            }
        }
    }
}

/// The first number lowest.
fn word(numbers: impl Iterator<Item = u32>, bits: usize) -> u32 {
    numbers.enumerate().fold(0, |word, (place, number)| word | number << (bits * place))
}

impl SelectedRows {
    /// The weight that they make.
    pub fn weight(&self) -> GroupedWeight<'_> {
        let numbers = (&self.numbers).into();
        GroupedWeight {
            out_features: self.shape.0,
            in_features: self.shape.1,
            numbers: match self.kind {
                Kind::Float8 => Numbers::Float8(numbers),
                Kind::Float4 => Numbers::Float4(numbers),
                Kind::Int8 => Numbers::Int8(numbers),
                Kind::Words { bits } => {
                    Numbers::Words { bits, layout: WordLayout::AlongRows, words: numbers }
                }
            },
            scales: GroupScales {
                bytes: (&self.scales).into(),
                kind: self.scale_kind,
                rows: 1,
                columns: self.group_size,
                transposed: false,
            },
            zeros: self.zeros.as_ref().map(|(bits, plus, words)| Zeros {
                bits: *bits,
                layout: ZeroLayout::FeaturesFirst,
                words: words.into(),
                plus: *plus,
            }),
            factor: self.factor,
            group_of: self.group_of.clone(),
        }
    }
}
