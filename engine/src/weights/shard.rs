//! Which part of each tensor a rank of a tensor-parallel model has (Shoeybi et al. 2019, arXiv 1909.08053).
//!
//! What makes heads and channels is divided by rows, what reads them by columns: a rank computes its heads and channels
//! whole, and the sum of all ranks' outputs is the layer's. Everything else lies on every rank.

use std::ops::Range;

use quire_kernels::LinearWeight;

use super::cut::{Cut, whole};
use super::loader::{WeightLoader, WeightSource, read_vector};
use crate::models::spec::MoeSpec;

/// A rank among those that share the weights of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    pub rank: usize,
    pub num_ranks: usize,
    /// Blocks of 256 weights are divided in halves: on CPUs, which keep blocks of 32 once they are packed.
    pub halves_blocks: bool,
}

/// Weights of the longest blocks.
const CHANNELS: usize = 256;

impl Shard {
    /// One rank that has everything.
    pub const WHOLE: Self = Self { rank: 0, num_ranks: 1, halves_blocks: false };

    pub fn is_whole(self) -> bool {
        self.num_ranks == 1
    }

    /// This rank's share of `len` things in a row.
    pub fn range(self, len: usize) -> Range<usize> {
        self.rank * len / self.num_ranks..(self.rank + 1) * len / self.num_ranks
    }

    /// This rank's share of the channels of an MLP: where even shares would end inside blocks of 256 weights (or halves of
    /// them), the first ranks have one more.
    pub fn channels(self, len: usize) -> Range<usize> {
        let block = if self.halves_blocks { CHANNELS / 2 } else { CHANNELS };
        if self.divides_blocks(len) { self.in_blocks(len, block) } else { self.range(len) }
    }

    /// Whether there are whole blocks of channels for every rank.
    pub fn divides_blocks(self, len: usize) -> bool {
        self.divides_in(len, CHANNELS)
    }

    /// This rank's share of the channels of each expert: even where no block is in the way, since ranks wait for the slowest.
    pub fn expert_channels(self, moe: &MoeSpec) -> Range<usize> {
        let (len, block) = (moe.num_channels, moe.block_channels);
        let is_even = block == 1 || len.is_multiple_of(self.num_ranks * block);
        match !is_even && self.divides_in(len, block) {
            true => self.in_blocks(len, block),
            false => self.range(len),
        }
    }

    /// Whether there are whole blocks for every rank.
    pub fn divides_in(self, len: usize, block: usize) -> bool {
        len.is_multiple_of(block) && len / block >= self.num_ranks
    }

    /// Whole blocks, of which some ranks have one more where they do not come out even: the first one always.
    fn in_blocks(self, len: usize, block: usize) -> Range<usize> {
        let border = |rank: usize| (rank * (len / block)).div_ceil(self.num_ranks) * block;
        border(self.rank)..border(self.rank + 1)
    }

    /// The same, if it is as long as the rank's spec says.
    fn channels_if(self, len: usize, wanted: usize) -> Option<Range<usize>> {
        Some(self.channels(len)).filter(|own| own.len() == wanted)
    }

    /// This rank's share of a vocabulary: it begins where a GPU writes several numbers at once.
    pub fn vocabulary(self, len: usize) -> Range<usize> {
        let border = |rank: usize| match rank == self.num_ranks {
            true => len,
            false => rank * len / self.num_ranks / 16 * 16,
        };
        border(self.rank)..border(self.rank + 1)
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
    /// Outputs and inputs that are channels of an MLP.
    ChannelRows,
    ChannelColumns,
    /// Added once to the sum of all ranks.
    FirstRank,
}

/// How the tensor of that name (without its layer) is divided.
fn split_of(name: &str) -> Split {
    match name {
        "attn_q.weight" | "attn_q.bias" | "attn_q_b.weight" | "attn_sinks.weight" => Split::Rows,
        "ffn_gate.weight" | "ffn_up.weight" | "ffn_gate_shexp.weight" | "ffn_up_shexp.weight" => {
            Split::ChannelRows
        }
        "attn_k.weight" | "attn_k.bias" | "attn_v.weight" | "attn_v.bias" => Split::KvRows,
        "attn_output.weight" => Split::Columns,
        "ffn_down.weight" | "ffn_down_shexp.weight" => Split::ChannelColumns,
        "attn_output.bias" | "ffn_down_exps.bias" => Split::FirstRank,
        _ => split_of_expert(name),
    }
}

/// Of files that have experts one by one: "ffn_gate.3.weight".
fn split_of_expert(name: &str) -> Split {
    let mut parts = name.split('.');
    let (first, index) = (parts.next(), parts.next());
    let is_expert = index.is_some_and(|index| index.parse::<u32>().is_ok());
    match first.filter(|_| is_expert && parts.eq(["weight"])) {
        Some("ffn_gate" | "ffn_up") => Split::Rows,
        Some("ffn_down") => Split::Columns,
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
                let all = in_features * num_ranks;
                let (rows, columns) = (0..out_features, shard.range(all));
                self.part(name, (out_features, all), rows, columns).map(Some)
            }
            Split::ChannelColumns => {
                let found = self.shape(source, name)?.map_or(0, |shape| shape.1);
                let columns = shard.channels_if(found, in_features);
                let all = if columns.is_some() { found } else { in_features * num_ranks };
                let (rows, columns) = (0..out_features, columns.unwrap_or(0..in_features));
                self.part(name, (out_features, all), rows, columns).map(Some)
            }
            split @ (Split::Rows | Split::KvRows | Split::ChannelRows) => {
                let found = self.shape(source, name)?.map_or(0, |shape| shape.0);
                let rows = match split {
                    Split::ChannelRows => shard.channels_if(found, out_features),
                    _ => part_of_rows(split, shard, out_features, found),
                };
                let total = if rows.is_some() { found } else { out_features * num_ranks };
                let rows = rows.unwrap_or(0..out_features);
                self.part(name, (total, in_features), rows, 0..in_features).map(Some)
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
        let rows = self.shard().vocabulary(vocab_size);
        if self.shard().is_whole() || self.is_shape_only() {
            return self.linear(name, rows.len(), in_features);
        }
        self.part(name, (vocab_size, in_features), rows, 0..in_features)
    }

    /// Rows and columns of a matrix that the file has as `[out_features, in_features]`.
    fn part(
        &self,
        name: &str,
        (out_features, in_features): (usize, usize),
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> anyhow::Result<LinearWeight> {
        self.cut(name, Cut { out_features, in_features, rows: &[rows], columns: &[columns] })
    }

    /// This rank's rows of matrices that a file has in one tensor, one after the other; `parts` are theirs. `None`: it has
    /// not, or of other sizes.
    pub(super) fn fused_part(
        &self,
        name: &str,
        parts: &[usize],
        in_features: usize,
    ) -> anyhow::Result<Option<LinearWeight>> {
        let Some(source) = self.source() else { return Ok(None) };
        let Some((found, _)) = self.shape(source, name)?.filter(|shape| shape.1 == in_features)
        else {
            return Ok(None);
        };
        let shard = self.shard();
        let of_heads = (found == parts.iter().sum::<usize>() * shard.num_ranks)
            .then(|| self.fused_ranges(parts));
        let Some(rows) = of_heads.or_else(|| fused_channels(shard, parts, found)) else {
            return Ok(None);
        };
        let cut =
            Cut { out_features: found, in_features, rows: &rows, columns: &whole(in_features) };
        self.cut(name, cut).map(Some)
    }

    fn fused_ranges(&self, parts: &[usize]) -> Vec<Range<usize>> {
        let Shard { rank, num_ranks, .. } = self.shard();
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

    /// Rows and columns of a tensor, if there is one.
    fn shape(
        &self,
        source: &dyn WeightSource,
        name: &str,
    ) -> anyhow::Result<Option<(usize, usize)>> {
        let full_name = self.full_name(name);
        if let Some(weight) = source.quantized(&full_name)? {
            return Ok(Some((weight.out_features, weight.in_features)));
        }
        Ok(source.tensor(&full_name)?.map(|tensor| (tensor.out_features, tensor.in_features)))
    }
}

/// Rows of gate and up in a tensor of `found` rows.
fn fused_channels(shard: Shard, parts: &[usize], found: usize) -> Option<Vec<Range<usize>>> {
    let size = found / parts.len();
    let of_part = |(index, &wanted): (usize, &usize)| {
        let own = shard.channels_if(size, wanted)?;
        Some(index * size + own.start..index * size + own.end)
    };
    let is_whole = size * parts.len() == found;
    parts.iter().enumerate().map(of_part).collect::<Option<Vec<_>>>().filter(|_| is_whole)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_divide_rows_and_share_heads_where_there_are_too_few() {
        let shard = |rank| Shard { rank, num_ranks: 4, ..Shard::WHOLE };
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
    fn channels_are_divided_between_blocks() {
        let shares_of = |halves_blocks, num_ranks, len| -> Vec<usize> {
            let shard = |rank| Shard { rank, num_ranks, halves_blocks };
            (0..num_ranks).map(|rank| shard(rank).channels(len).len()).collect()
        };
        let shares = |num_ranks, len| shares_of(false, num_ranks, len);
        assert_eq!(shares_of(true, 2, 4864), [2432, 2432]);
        assert_eq!(shares_of(true, 4, 4864), [1280, 1152, 1280, 1152]);
        assert_eq!(shares_of(true, 2, 384), [192, 192], "no whole blocks");
        assert_eq!(shares(2, 4864), [10 * 256, 9 * 256]);
        assert_eq!(shares(4, 8960), [9 * 256, 9 * 256, 9 * 256, 8 * 256]);
        assert_eq!(shares(2, 3072), [1536, 1536]);
        assert_eq!(shares(2, 160), [80, 80], "no whole blocks");
        assert_eq!(shares(4, 512), [128; 4], "fewer blocks than ranks");
        let second = Shard { rank: 1, num_ranks: 2, ..Shard::WHOLE };
        assert_eq!(second.in_blocks(96, 32), 64..96);
        let both = fused_channels(second, &[256, 256], 2 * 768);
        assert_eq!(both, Some(vec![512..768, 1280..1536]));
        assert_eq!(fused_channels(second, &[256, 256], 768), None, "of up alone");
    }

    #[test]
    fn shares_of_a_vocabulary_cover_it() {
        let ends: Vec<_> = (0..3)
            .map(|rank| Shard { rank, num_ranks: 3, ..Shard::WHOLE }.vocabulary(49_155))
            .collect();
        assert_eq!(ends, [0..16_384, 16_384..32_768, 32_768..49_155]);
    }
}
