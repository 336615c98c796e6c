//! Rows and columns of a matrix, cut out of what a file has: what a rank loads of a weight.

use std::ops::Range;

use anyhow::{Context, bail, ensure};
use quire_kernels::{FileBytes, GroupedWeight, LinearWeight, WeightFormat};

use super::loader::{WeightLoader, WeightSource, factors_beside, find};

/// Rows and columns of a matrix `[out_features, in_features]`, each in one run or several.
#[derive(Clone, Copy)]
pub(super) struct Cut<'a> {
    pub out_features: usize,
    pub in_features: usize,
    pub rows: &'a [Range<usize>],
    pub columns: &'a [Range<usize>],
}

/// What was cut out, copied only where it does not lie in one piece.
pub(super) enum CutBytes<'a> {
    File(FileBytes<'a>),
    Own(Vec<u8>),
}

impl CutBytes<'_> {
    pub fn get(&self) -> FileBytes<'_> {
        match self {
            Self::File(bytes) => *bytes,
            Self::Own(bytes) => bytes.into(),
        }
    }
}

/// One run, of everything.
pub(super) fn whole(len: usize) -> Vec<Range<usize>> {
    std::iter::once(0..len).collect()
}

pub(super) fn total(runs: &[Range<usize>]) -> usize {
    runs.iter().map(ExactSizeIterator::len).sum()
}

impl Cut<'_> {
    /// Rows and columns that are left.
    pub fn shape(&self) -> (usize, usize) {
        (total(self.rows), total(self.columns))
    }

    /// The bytes of the rows, one after the other; `all` are those of the matrix. `None`: a border lies inside a block.
    pub fn bytes<'b>(&self, format: WeightFormat, all: FileBytes<'b>) -> Option<CutBytes<'b>> {
        let row_bytes = format.row_bytes(self.in_features)?;
        let place = |columns: &Range<usize>| {
            Some(format.row_bytes(columns.start)?..format.row_bytes(columns.end)?)
        };
        let places: Vec<Range<usize>> = self.columns.iter().map(place).collect::<Option<_>>()?;
        let is_whole = matches!(&places[..], [place] if place.len() == row_bytes);
        if let ([rows], true) = (self.rows, is_whole) {
            return all.slice(rows.start * row_bytes..rows.end * row_bytes).map(CutBytes::File);
        }
        let len: usize = places.iter().map(ExactSizeIterator::len).sum();
        let mut bytes = Vec::with_capacity(len * total(self.rows));
        for row in self.rows.iter().cloned().flatten() {
            let row = all.get().get(row * row_bytes..(row + 1) * row_bytes)?;
            places.iter().for_each(|place| bytes.extend_from_slice(&row[place.clone()]));
        }
        Some(CutBytes::Own(bytes))
    }

    /// What to say where `bytes` is `None`.
    pub fn problem(&self, format: WeightFormat) -> String {
        format!(
            "rows of {} weights of {format} (blocks of {}) cannot be cut there; choose another --tensor-parallel-size",
            self.in_features,
            format.block_elements(),
        )
    }
}

impl WeightLoader<'_> {
    /// A part of a matrix.
    pub(super) fn cut(&self, name: &str, cut: Cut) -> anyhow::Result<LinearWeight> {
        let source = self.source().context("only files have parts")?;
        let full_name = self.full_name(name);
        if let Some(weight) = source.quantized(&full_name)? {
            return self
                .cut_groups(name, &weight, cut)
                .with_context(|| format!("weight \"{}\"", source.name_in_file(&full_name)));
        }
        let tensor = find(source, &full_name, cut.out_features, cut.in_features)?;
        let (rows, columns) = cut.shape();
        let packed = match cut.bytes(tensor.format, tensor.bytes) {
            None => self.cut_inside_blocks(name, (tensor.format, tensor.bytes), cut),
            Some(bytes) => self
                .pack(name, tensor.format, bytes.get(), rows, columns)
                .map_err(anyhow::Error::from),
        };
        tensor.bytes.release();
        let weight =
            packed.with_context(|| format!("tensor \"{}\"", source.name_in_file(&full_name)))?;
        scaled(source, &full_name, tensor.format, weight)
    }

    /// Columns whose borders lie inside of blocks: with the whole blocks that they are in, of which the rest is left out.
    fn cut_inside_blocks(
        &self,
        name: &str,
        (format, bytes): (WeightFormat, FileBytes),
        cut: Cut,
    ) -> anyhow::Result<LinearWeight> {
        let [columns] = cut.columns else { bail!(cut.problem(format)) };
        let block = format.block_elements();
        let first = columns.start / block * block;
        let in_blocks = std::iter::once(first..columns.end.next_multiple_of(block));
        let in_blocks: Vec<Range<usize>> = in_blocks.collect();
        let bytes = Cut { columns: &in_blocks, ..cut }.bytes(format, bytes);
        let bytes = bytes.with_context(|| cut.problem(format))?;
        let inside = (in_blocks[0].len(), columns.start - first..columns.end - first);
        let part = self.pack_columns(name, format, bytes.get(), cut.shape().0, inside);
        part.with_context(|| cut.problem(format))
    }

    /// Of a weight whose numbers and scales are tensors of their own.
    fn cut_groups(
        &self,
        name: &str,
        weight: &GroupedWeight,
        cut: Cut,
    ) -> anyhow::Result<LinearWeight> {
        let (shape, expected) =
            ((weight.out_features, weight.in_features), (cut.out_features, cut.in_features));
        ensure!(shape == expected, "is {shape:?}, but the model's keys ask for {expected:?}");
        if cut.rows.len() > 1 && matches!(cut.columns, [columns] if columns.len() == shape.1) {
            let rows = weight.select(&cut.rows.iter().cloned().flatten().collect::<Vec<_>>())?;
            return Ok(self.pack_groups(name, &rows.weight())?);
        }
        let [columns] = cut.columns else {
            bail!("columns of several runs cannot be cut out of a quantized weight")
        };
        let part = |rows: &Range<usize>| {
            let part = weight
                .part(rows.clone(), columns.clone())
                .context("choose another --tensor-parallel-size")?;
            Ok(self.pack_groups(name, &part.weight())?)
        };
        let mut parts = cut.rows.iter().map(part).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(match parts.len() {
            1 => parts.remove(0),
            _ => LinearWeight::stack(parts),
        })
    }
}

/// With the number that multiplies all of an NVFP4 weight.
fn scaled(
    source: &dyn WeightSource,
    full_name: &str,
    format: WeightFormat,
    weight: LinearWeight,
) -> anyhow::Result<LinearWeight> {
    match format {
        WeightFormat::Nvfp4 => Ok(weight.with_factor(factors_beside(source, full_name, 1)?[0])),
        _ => Ok(weight),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "lists of one run")]

    use super::*;

    #[test]
    fn rows_and_columns_come_in_their_order_and_at_the_borders_of_blocks() {
        let bytes: Vec<u8> = (0..16).collect();
        let cut = |rows, columns| Cut { out_features: 4, in_features: 2, rows, columns };
        let cut_out = |cut: Cut| cut.bytes(WeightFormat::BF16, (&bytes).into());
        let own = |cut: Cut| cut_out(cut).map(|bytes| bytes.get().to_vec());
        assert_eq!(own(cut(&[1..3], &[0..2])), Some((4..12).collect()));
        assert!(matches!(cut_out(cut(&[1..3], &[0..2])), Some(CutBytes::File(_))));
        assert_eq!(own(cut(&[3..4, 0..1], &[1..2])), Some(vec![14, 15, 2, 3]));
        assert_eq!(own(cut(&[0..1], &[1..2, 0..1])), Some(vec![2, 3, 0, 1]));
        let block = Cut { out_features: 1, in_features: 64, rows: &[0..1], columns: &[0..16] };
        assert!(block.bytes(WeightFormat::Q8_0, (&vec![0; 68]).into()).is_none());
        assert!(block.problem(WeightFormat::Q8_0).contains("blocks of 32"));
    }
}
