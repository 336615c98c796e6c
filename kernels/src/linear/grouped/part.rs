//! Rows and columns of a grouped weight, as a weight of its own: cut where numbers fill words and groups end.

use std::ops::Range;

use super::{GroupScales, GroupedWeight, Numbers, WordLayout, ZeroLayout, Zeros};
use crate::linear::LinearError;
use crate::mapped_file::FileBytes;

/// The bytes of a part.
pub struct GroupedPart<'a> {
    of: &'a GroupedWeight<'a>,
    out_features: usize,
    in_features: usize,
    numbers: Vec<u8>,
    scales: Vec<u8>,
    zeros: Vec<u8>,
    group_of: Option<Vec<u32>>,
}

impl GroupedWeight<'_> {
    /// The features `rows` with their weights `columns`. An error says which border does not allow it.
    pub fn part(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Result<GroupedPart<'_>, LinearError> {
        self.check()?;
        let problem = |text: String| Err(LinearError::Groups(text));
        let keeps_order = columns.len() == self.in_features;
        if !keeps_order && self.order()?.is_some() {
            return problem("its inputs are in groups of no order (act-order)".to_owned());
        }
        let scales = &self.scales;
        for (what, range, size) in
            [("outputs", &rows, scales.rows), ("inputs", &columns, scales.columns)]
        {
            // Inside one group there is no border.
            let is_inside = range.start / size == (range.end - 1) / size;
            if !range.start.is_multiple_of(size) && !is_inside {
                return problem(format!(
                    "groups of {size} {what} cannot be cut at {}",
                    range.start
                ));
            }
        }
        let numbers = self.number_bytes(rows.clone(), columns.clone())?;
        let groups = columns.start / scales.columns..columns.end.div_ceil(scales.columns);
        let scale_rows = rows.start / scales.rows..rows.end.div_ceil(scales.rows);
        let num_scale_rows = self.out_features.div_ceil(scales.rows);
        let (bytes, size) = (scales.bytes, scales.kind.num_bytes());
        let scales = match scales.transposed {
            true => rectangle(bytes, num_scale_rows, size, groups.clone(), scale_rows),
            false => rectangle(bytes, self.num_groups(), size, scale_rows, groups.clone()),
        };
        let zeros = match &self.zeros {
            Some(zeros) => self.zero_bytes(zeros, rows.clone(), groups)?,
            None => Vec::new(),
        };
        let (out_features, in_features) = (rows.len(), columns.len());
        let group_of = self.group_of.clone().filter(|_| keeps_order);
        Ok(GroupedPart { of: self, out_features, in_features, numbers, scales, zeros, group_of })
    }

    fn number_bytes(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Result<Vec<u8>, LinearError> {
        let (out_features, in_features) = self.shape();
        match &self.numbers {
            Numbers::Float8(bytes) | Numbers::Int8(bytes) => {
                Ok(rectangle(*bytes, in_features, 1, rows, columns))
            }
            Numbers::Float4(bytes) => {
                Ok(rectangle(*bytes, in_features / 2, 1, rows, in_words(&columns, 2, "inputs")?))
            }
            Numbers::Words { bits, layout, words } => {
                let (words, per_word) = (*words, 32 / bits);
                Ok(match layout {
                    WordLayout::AlongRows => {
                        let columns = in_words(&columns, per_word, "inputs")?;
                        rectangle(words, in_features / per_word, 4, rows, columns)
                    }
                    WordLayout::AlongColumns => {
                        let columns = in_words(&columns, per_word, "inputs")?;
                        rectangle(words, out_features, 4, columns, rows)
                    }
                    WordLayout::Interleaved => {
                        let rows = in_words(&rows, per_word, "outputs")?;
                        rectangle(words, out_features / per_word, 4, columns, rows)
                    }
                })
            }
        }
    }

    fn zero_bytes(
        &self,
        zeros: &Zeros,
        rows: Range<usize>,
        groups: Range<usize>,
    ) -> Result<Vec<u8>, LinearError> {
        let per_word = 32 / zeros.bits;
        let rows = match zeros.layout {
            // The last word of a feature need not be full.
            ZeroLayout::FeaturesFirst if rows.start.is_multiple_of(per_word) => {
                rows.start / per_word..rows.end.div_ceil(per_word)
            }
            _ => in_words(&rows, per_word, "outputs")?,
        };
        Ok(match zeros.layout {
            ZeroLayout::FeaturesFirst => rectangle(zeros.words, self.num_groups(), 4, rows, groups),
            ZeroLayout::GroupsFirst | ZeroLayout::Interleaved => {
                rectangle(zeros.words, self.out_features / per_word, 4, groups, rows)
            }
        })
    }
}

impl GroupedPart<'_> {
    pub fn weight(&self) -> GroupedWeight<'_> {
        let numbers: FileBytes = (&self.numbers).into();
        let (scales, zeros) = (&self.of.scales, self.of.zeros.as_ref());
        GroupedWeight {
            out_features: self.out_features,
            in_features: self.in_features,
            numbers: match self.of.numbers {
                Numbers::Float8(_) => Numbers::Float8(numbers),
                Numbers::Float4(_) => Numbers::Float4(numbers),
                Numbers::Int8(_) => Numbers::Int8(numbers),
                Numbers::Words { bits, layout, .. } => {
                    Numbers::Words { bits, layout, words: numbers }
                }
            },
            scales: GroupScales { bytes: (&self.scales).into(), ..*scales },
            zeros: zeros.map(|zeros| Zeros { words: (&self.zeros).into(), ..*zeros }),
            factor: self.of.factor,
            group_of: self.group_of.clone(),
        }
    }
}

/// The words that hold numbers `range` and no other.
fn in_words(
    range: &Range<usize>,
    per_word: usize,
    what: &str,
) -> Result<Range<usize>, LinearError> {
    match range.start.is_multiple_of(per_word) && range.end.is_multiple_of(per_word) {
        true => Ok(range.start / per_word..range.end / per_word),
        false => Err(LinearError::Groups(format!(
            "words of {per_word} {what} cannot be cut at {} and {}",
            range.start, range.end
        ))),
    }
}

/// Rows and columns of a matrix of `num_columns` elements of `size` bytes a row.
fn rectangle(
    bytes: FileBytes,
    num_columns: usize,
    size: usize,
    rows: Range<usize>,
    columns: Range<usize>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.len() * columns.len() * size);
    for row in rows {
        let first = row * num_columns;
        out.extend_from_slice(&bytes[(first + columns.start) * size..(first + columns.end) * size]);
    }
    out
}
