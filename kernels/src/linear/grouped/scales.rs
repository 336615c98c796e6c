//! The scales and zeros of a grouped weight.

use super::numbers::{PLACES, number, word_at};
use crate::float8::float8_to_f32;
use crate::linear::block::f16_to_f32;
use crate::mapped_file::FileBytes;

/// One scale for `rows` features times `columns` weights along k; the last may have fewer.
pub struct GroupScales<'a> {
    pub bytes: FileBytes<'a>,
    pub kind: ScaleKind,
    pub rows: usize,
    pub columns: usize,
    /// The scales of a group of columns lie together, those of all rows, instead of those of a row.
    pub transposed: bool,
}

/// The type of a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleKind {
    F32,
    F16,
    Bf16,
    /// E4M3.
    Float8,
    /// E8M0: a byte e stands for 2^(e − 127).
    PowerOfTwo,
}

impl ScaleKind {
    pub(super) fn num_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Float8 | Self::PowerOfTwo => 1,
        }
    }
}

impl GroupScales<'_> {
    /// The group of column `k`.
    pub(super) fn group(&self, k: usize) -> usize {
        k / self.columns
    }

    /// The bits of a scale.
    pub(super) fn raw(&self, shape: (usize, usize), feature: usize, group: usize) -> u32 {
        let (row, rows) = (feature / self.rows, shape.0.div_ceil(self.rows));
        let groups = shape.1.div_ceil(self.columns);
        let index = if self.transposed { group * rows + row } else { row * groups + group };
        let size = self.kind.num_bytes();
        let bytes = &self.bytes[index * size..][..size];
        bytes.iter().rev().fold(0, |bits, &byte| bits << 8 | u32::from(byte))
    }

    pub(super) fn value(&self, shape: (usize, usize), feature: usize, group: usize) -> f32 {
        let bits = self.raw(shape, feature, group);
        match self.kind {
            ScaleKind::F32 => f32::from_bits(bits),
            ScaleKind::F16 => f16_to_f32(bits as u16),
            ScaleKind::Bf16 => f32::from_bits(bits << 16),
            ScaleKind::Float8 => float8_to_f32(bits as u8),
            ScaleKind::PowerOfTwo if bits == 0 => f32::from_bits(0x0040_0000),
            ScaleKind::PowerOfTwo => f32::from_bits(bits << 23),
        }
    }
}

/// Zero points: unsigned numbers of 4 or 8 bits in words of 32.
pub struct Zeros<'a> {
    pub bits: usize,
    pub layout: ZeroLayout,
    pub words: FileBytes<'a>,
    /// Added to each: GPTQ's first format stores them 1 too small.
    pub plus: u8,
}

/// Which zeros a word holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroLayout {
    /// Of one group, neighbouring features; words `[groups, out / zeros of a word]` (GPTQ).
    GroupsFirst,
    /// The same in AWQ's order of eight features.
    Interleaved,
    /// Of one group, neighbouring features; words `[out / zeros of a word, groups]` (compressed-tensors).
    FeaturesFirst,
}

impl Zeros<'_> {
    /// `None` when it overflows, or features do not fill whole words where they must.
    pub(super) fn num_bytes(&self, (out, _): (usize, usize), groups: usize) -> Option<usize> {
        let per_word = 32 / self.bits;
        let is_whole = out.is_multiple_of(per_word) || self.layout == ZeroLayout::FeaturesFirst;
        let words = out.div_ceil(per_word).checked_mul(groups)?;
        if is_whole { words.checked_mul(4) } else { None }
    }

    pub(super) fn at(
        &self,
        (out, _): (usize, usize),
        groups: usize,
        feature: usize,
        group: usize,
    ) -> u8 {
        let per_word = 32 / self.bits;
        let (word, place) = (feature / per_word, feature % per_word);
        let (index, place) = match self.layout {
            ZeroLayout::GroupsFirst => (group * (out / per_word) + word, place),
            ZeroLayout::Interleaved => (group * (out / per_word) + word, PLACES[place]),
            ZeroLayout::FeaturesFirst => (word * groups + group, place),
        };
        number(word_at(&self.words, index), self.bits, place).wrapping_add(self.plus)
    }

    pub(super) fn all_are(&self, shape: (usize, usize), groups: usize, value: u8) -> bool {
        let is_value =
            |feature| (0..groups).all(|group| self.at(shape, groups, feature, group) == value);
        (0..shape.0).all(is_value)
    }
}
