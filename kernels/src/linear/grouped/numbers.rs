//! The numbers of a grouped weight, in the orders in which checkpoints have them.

use super::super::mxfp4;
use crate::float8::float8_to_f32;
use crate::linear::packed::{BLOCK, TILE};
use crate::mapped_file::FileBytes;

/// The numbers of `[out_features, in_features]`.
pub enum Numbers<'a> {
    /// E4M3 floats, row after row.
    Float8(FileBytes<'a>),
    /// E2M1 floats, two to a byte, the first in the lower half; row after row.
    Float4(FileBytes<'a>),
    /// Signed bytes, row after row.
    Int8(FileBytes<'a>),
    /// Unsigned numbers of 4 or 8 bits in little-endian words of 32, the first lowest.
    Words { bits: usize, layout: WordLayout, words: FileBytes<'a> },
}

/// Which numbers a word holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordLayout {
    /// Of one feature, neighbours along k; words `[out, in / numbers of a word]` (compressed-tensors).
    AlongRows,
    /// The same, words `[in / numbers of a word, out]` (GPTQ).
    AlongColumns,
    /// Eight features of one k, words `[in, out / 8]`, features in the order 0 2 4 6 1 3 5 7 (AWQ).
    Interleaved,
}

/// Where in a word of AWQ each of eight features lies.
pub(super) const PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Codes of a pair of blocks of a tile's features.
pub(super) type PairCodes = [[u8; 2 * BLOCK]; TILE];

impl Numbers<'_> {
    pub(super) fn bytes(&self) -> FileBytes<'_> {
        match self {
            Self::Float8(bytes) | Self::Float4(bytes) | Self::Int8(bytes) => *bytes,
            Self::Words { words, .. } => *words,
        }
    }

    /// `None` when numbers do not fill whole words, or it overflows.
    pub(super) fn num_bytes(&self, (out_features, in_features): (usize, usize)) -> Option<usize> {
        let numbers = out_features.checked_mul(in_features)?;
        match self {
            Self::Float8(_) | Self::Int8(_) => Some(numbers),
            Self::Float4(_) => in_features.is_multiple_of(2).then_some(numbers / 2),
            Self::Words { bits, layout, .. } => {
                let per_word = 32 / bits;
                let (along, is_known) = match layout {
                    WordLayout::Interleaved => (out_features, *bits == 4),
                    _ => (in_features, matches!(bits, 4 | 8)),
                };
                (is_known && along.is_multiple_of(per_word)).then_some(numbers / per_word * 4)
            }
        }
    }

    /// What unsigned numbers have in the middle of their range; 0 for others.
    pub(super) fn middle(&self) -> u8 {
        match self {
            Self::Words { bits, .. } => 1 << (bits - 1),
            _ => 0,
        }
    }

    pub(super) fn value(&self, shape: (usize, usize), feature: usize, k: usize) -> f32 {
        match self {
            Self::Float8(bytes) => float8_to_f32(bytes[feature * shape.1 + k]),
            Self::Int8(bytes) => f32::from(bytes[feature * shape.1 + k].cast_signed()),
            Self::Float4(_) => {
                f32::from(mxfp4::DOUBLED[usize::from(self.code(shape, feature, k))]) / 2.0
            }
            Self::Words { .. } => f32::from(self.code(shape, feature, k)),
        }
    }

    /// The number as it is packed.
    pub(super) fn code(
        &self,
        (out_features, in_features): (usize, usize),
        feature: usize,
        k: usize,
    ) -> u8 {
        match self {
            Self::Float8(bytes) => bytes[feature * in_features + k],
            Self::Int8(bytes) => bytes[feature * in_features + k] ^ 0x80,
            Self::Float4(bytes) => bytes[feature * (in_features / 2) + k / 2] >> (4 * (k % 2)) & 15,
            Self::Words { bits, layout, words } => {
                let per_word = 32 / bits;
                let (word, place) = match layout {
                    WordLayout::AlongRows => {
                        (feature * (in_features / per_word) + k / per_word, k % per_word)
                    }
                    WordLayout::AlongColumns => {
                        (k / per_word * out_features + feature, k % per_word)
                    }
                    WordLayout::Interleaved => {
                        (k * (out_features / 8) + feature / 8, PLACES[feature % 8])
                    }
                };
                number(word_at(words, word), *bits, place)
            }
        }
    }

    /// Codes of the features of tile `tile` from `k` on; `k` is a multiple of two blocks. Those beyond the weight are left.
    /// `order`: which k comes where.
    pub(super) fn fill(
        &self,
        shape: (usize, usize),
        tile: usize,
        k: usize,
        order: Option<&[u32]>,
        codes: &mut PairCodes,
    ) {
        let features = tile * TILE..shape.0.min((tile + 1) * TILE);
        let columns = k..shape.1.min(k + 2 * BLOCK);
        match (self, order) {
            (Self::Words { bits, layout: WordLayout::AlongColumns, words }, None) => {
                let per_word = 32 / bits;
                for first in columns.clone().step_by(per_word) {
                    let row = first / per_word * shape.0;
                    for (feature, codes) in features.clone().zip(codes.iter_mut()) {
                        let word = word_at(words, row + feature);
                        let codes = &mut codes[first - k..][..per_word];
                        for (place, code) in codes.iter_mut().enumerate() {
                            *code = number(word, *bits, place);
                        }
                    }
                }
            }
            (Self::Words { layout: WordLayout::Interleaved, words, .. }, None) => {
                for column in columns {
                    let row = column * (shape.0 / 8);
                    for first in features.clone().step_by(8) {
                        let word = word_at(words, row + first / 8);
                        for (feature, place) in PLACES.into_iter().enumerate() {
                            codes[first - features.start + feature][column - k] =
                                number(word, 4, place);
                        }
                    }
                }
            }
            (_, order) => {
                for (feature, codes) in features.zip(codes) {
                    for (column, code) in columns.clone().zip(codes) {
                        let column = order.map_or(column, |order| order[column] as usize);
                        *code = self.code(shape, feature, column);
                    }
                }
            }
        }
    }
}

#[inline(always)]
pub(super) fn number(word: u32, bits: usize, place: usize) -> u8 {
    (word >> (bits * place) & ((1 << bits) - 1)) as u8
}

#[inline(always)]
pub(super) fn word_at(words: &[u8], index: usize) -> u32 {
    let word = words[4 * index..].first_chunk().expect("lengths were checked");
    u32::from_le_bytes(*word)
}
