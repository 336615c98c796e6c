//! Which part of each tensor a rank of a tensor-parallel model has (Shoeybi et al. 2019, arXiv 1909.08053).
//!
//! What makes heads and channels is divided by rows, what reads them by columns: a rank computes its heads and channels
//! whole, and the sum of all ranks' outputs is the layer's. Everything else lies on every rank.

use std::ops::Range;

use anyhow::{Context, bail, ensure};
use quire_kernels::{LinearWeight, WeightFormat};

use super::loader::{WeightLoader, WeightSource, factors_beside, find, read_vector};

/// A rank among those that share the weights of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    pub rank: usize,
    pub num_ranks: usize,
}

impl Shard {
    /// One rank that has everything.
    pub const WHOLE: Self = Self { rank: 0, num_ranks: 1 };

    pub fn is_whole(self) -> bool {
        self.num_ranks == 1
    }

    /// This rank's share of `len` things in a row.
    pub fn range(self, len: usize) -> Range<usize> {
        self.rank * len / self.num_ranks..(self.rank + 1) * len / self.num_ranks
    }
}

/// How a tensor is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Split {
    /// Every rank has all of it.
    Whole,
    /// Outputs.
    Rows,
    /// Outputs of KV heads: ranks that are more than heads have the same head as their neighbours.
    KvRows,
    /// Inputs.
    Columns,
    /// Added once to the sum of all ranks.
    FirstRank,
}

/// How the tensor of that name (without its layer) is divided.
fn split_of(name: &str) -> Split {
    match name {
        "attn_q.weight" | "attn_q.bias" | "attn_sinks.weight" | "ffn_gate.weight"
        | "ffn_up.weight" => Split::Rows,
        "attn_k.weight" | "attn_k.bias" | "attn_v.weight" | "attn_v.bias" => Split::KvRows,
        "attn_output.weight" | "ffn_down.weight" => Split::Columns,
        "attn_output.bias" => Split::FirstRank,
        _ => Split::Whole,
    }
}

impl WeightLoader<'_> {
    /// This rank's part `[out_features, in_features]` of a matrix. `None`: it has all of it.
    pub(super) fn linear_part(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
    ) -> anyhow::Result<Option<LinearWeight>> {
        let shard = self.shard();
        let Some(source) = self.source().filter(|_| !shard.is_whole()) else { return Ok(None) };
        let num_ranks = shard.num_ranks;
        match split_of(name) {
            Split::Whole | Split::FirstRank => Ok(None),
            Split::Columns => {
                self.linear_of_columns(name, out_features, in_features * num_ranks).map(Some)
            }
            split @ (Split::Rows | Split::KvRows) => {
                let found = self.shape(source, name)?.map_or(0, |shape| shape.0);
                let rows = part_of_rows(split, shard, out_features, found);
                let total = if rows.is_some() { found } else { out_features * num_ranks };
                let rows = rows.unwrap_or(0..out_features);
                self.rows_of(name, (total, in_features), rows).map(Some)
            }
        }
    }

    /// This rank's share of the vocabulary's rows of a matrix `[vocab_size, in_features]`.
    pub fn vocabulary(
        &self,
        name: &str,
        vocab_size: usize,
        in_features: usize,
    ) -> anyhow::Result<LinearWeight> {
        let rows = self.shard().range(vocab_size);
        if self.shard().is_whole() || self.is_shape_only() {
            return self.linear(name, rows.len(), in_features);
        }
        self.rows_of(name, (vocab_size, in_features), rows)
    }

    /// This rank's rows of matrices that a file has in one tensor, one after the other; `parts` are theirs.
    pub(super) fn fused_part(
        &self,
        name: &str,
        parts: &[usize],
        in_features: usize,
    ) -> anyhow::Result<LinearWeight> {
        let total = parts.iter().sum::<usize>() * self.shard().num_ranks;
        self.linear_of_rows(name, (total, in_features), self.fused_ranges(parts).into_iter())
    }

    fn fused_ranges(&self, parts: &[usize]) -> Vec<Range<usize>> {
        let Shard { rank, num_ranks } = self.shard();
        let mut first = 0;
        let of_part = |&len: &usize| {
            let start = first + rank * len;
            first += num_ranks * len;
            start..start + len
        };
        parts.iter().map(of_part).collect()
    }

    /// This rank's numbers of vectors that a file has in one tensor.
    pub(super) fn fused_vector_part(
        &self,
        source: &dyn WeightSource,
        name: &str,
        parts: &[usize],
    ) -> anyhow::Result<Vec<f32>> {
        let total = parts.iter().sum::<usize>() * self.shard().num_ranks;
        let all = read_vector(source, &self.full_name(name), total)?;
        Ok(self.fused_ranges(parts).into_iter().flat_map(|range| all[range].to_vec()).collect())
    }

    /// This rank's `len` numbers of a vector.
    pub(super) fn vector_part(
        &self,
        source: &dyn WeightSource,
        name: &str,
        len: usize,
    ) -> anyhow::Result<Vec<f32>> {
        let (full_name, shard) = (self.full_name(name), self.shard());
        match (split_of(name), shard.is_whole()) {
            (Split::FirstRank, false) if shard.rank > 0 => Ok(vec![0.0; len]),
            (split @ (Split::Rows | Split::KvRows), false) => {
                let found = self.shape(source, name)?.map_or(0, |shape| shape.1);
                let range = part_of_rows(split, shard, len, found);
                let total = if range.is_some() { found } else { len * shard.num_ranks };
                let all = read_vector(source, &full_name, total)?;
                Ok(range.map_or_else(Vec::new, |range| all[range].to_vec()))
            }
            _ => read_vector(source, &full_name, len),
        }
    }

    /// Rows `rows` of a matrix that the file has as `[out_features, in_features]`.
    fn rows_of(
        &self,
        name: &str,
        (out_features, in_features): (usize, usize),
        rows: Range<usize>,
    ) -> anyhow::Result<LinearWeight> {
        let source = self.source().context("only files have parts")?;
        let full_name = self.full_name(name);
        refuse_quantized(source, &full_name)?;
        let tensor = find(source, &full_name, out_features, in_features)?;
        let row_bytes = tensor.bytes.len() / out_features.max(1);
        let bytes = tensor.bytes.slice(rows.start * row_bytes..rows.end * row_bytes);
        let bytes = bytes.context("a part lies in its tensor")?;
        let weight = self
            .pack(name, tensor.format, bytes, rows.len(), in_features)
            .with_context(|| format!("tensor \"{}\"", source.name_in_file(&full_name)))?;
        scaled(source, &full_name, tensor.format, weight)
    }

    /// This rank's columns of a matrix that the file has as `[out_features, in_features]`.
    fn linear_of_columns(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
    ) -> anyhow::Result<LinearWeight> {
        let source = self.source().context("only files have parts")?;
        let full_name = self.full_name(name);
        refuse_quantized(source, &full_name)?;
        let tensor = find(source, &full_name, out_features, in_features)?;
        let columns = self.shard().range(in_features);
        let bytes_of = |columns: usize| tensor.format.row_bytes(columns);
        let (Some(start), Some(len)) = (bytes_of(columns.start), bytes_of(columns.len())) else {
            bail!(
                "tensor \"{}\": rows of {in_features} weights of {} (blocks of {}) cannot be cut into {} parts; \
                 choose another --tensor-parallel-size",
                source.name_in_file(&full_name),
                tensor.format,
                tensor.format.block_elements(),
                self.shard().num_ranks
            );
        };
        let row_bytes = tensor.bytes.len() / out_features.max(1);
        let rows = tensor.bytes.chunks(row_bytes.max(1));
        let bytes: Vec<u8> = rows.flat_map(|row| &row[start..start + len]).copied().collect();
        let weight = self
            .pack(name, tensor.format, (&bytes).into(), out_features, columns.len())
            .with_context(|| format!("tensor \"{}\"", source.name_in_file(&full_name)))?;
        scaled(source, &full_name, tensor.format, weight)
    }

    /// Rows and columns of a tensor, if there is one.
    fn shape(
        &self,
        source: &dyn WeightSource,
        name: &str,
    ) -> anyhow::Result<Option<(usize, usize)>> {
        let full_name = self.full_name(name);
        refuse_quantized(source, &full_name)?;
        Ok(source.tensor(&full_name)?.map(|tensor| (tensor.out_features, tensor.in_features)))
    }
}

fn refuse_quantized(source: &dyn WeightSource, name: &str) -> anyhow::Result<()> {
    ensure!(
        source.quantized(name)?.is_none(),
        "weight \"{}\" is quantized in a way that cannot be divided; use --tensor-parallel-size 1",
        source.name_in_file(name)
    );
    Ok(())
}

/// The rows of a tensor of `found` rows of which each rank has `wanted`. `None`: they do not come out even.
fn part_of_rows(split: Split, shard: Shard, wanted: usize, found: usize) -> Option<Range<usize>> {
    let all = wanted * shard.num_ranks;
    // Ranks that have the same rows.
    let copies = all.checked_div(found)?;
    let is_even = found * copies == all && (copies == 1 || split == Split::KvRows);
    let first = shard.rank / copies.max(1) * wanted;
    is_even.then_some(first..first + wanted)
}

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
    use super::*;

    #[test]
    fn ranks_divide_rows_and_share_heads_where_there_are_too_few() {
        let shard = |rank| Shard { rank, num_ranks: 4 };
        let rows = |split, wanted, found| -> Vec<_> {
            (0..4).map(|rank| part_of_rows(split, shard(rank), wanted, found)).collect()
        };
        let all = [Some(0..8), Some(8..16), Some(16..24), Some(24..32)];
        assert_eq!(rows(Split::Rows, 8, 32), all);
        assert_eq!(rows(Split::KvRows, 8, 32), all);
        let shared = [Some(0..8), Some(0..8), Some(8..16), Some(8..16)];
        assert_eq!(rows(Split::KvRows, 8, 16), shared);
        assert_eq!(rows(Split::Rows, 8, 16), [None, None, None, None], "q has heads for all");
        assert_eq!(rows(Split::Rows, 8, 0), [None, None, None, None], "no such tensor");
        assert_eq!(rows(Split::KvRows, 8, 24), [None, None, None, None]);
    }

    #[test]
    fn shares_of_a_vocabulary_cover_it() {
        let ends: Vec<_> = (0..3).map(|rank| Shard { rank, num_ranks: 3 }.range(49_153)).collect();
        assert_eq!(ends, [0..16_384, 16_384..32_768, 32_768..49_153]);
    }
}
