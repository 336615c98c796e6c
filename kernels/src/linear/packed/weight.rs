//! PackedWeight: the tiles of one part of a weight.

use std::ops::Range;

use super::activations::ActivationPrecision;
use super::halves;
use super::packing::{BlockScales, Codes, Packing, Scales};
use super::scales::{expand, floats_per_block};
use super::{BLOCK, TILE};
use crate::cpu::SimdLevel;
use crate::device::CpuDevice;
use crate::linear::format::WeightFormat;
use crate::linear::scratch::with_scratch;
use crate::linear::weight::{TileSpan, copy_in_parts};
use crate::mapped_file::FileBytes;
use crate::tensor::{DType, Tensor};

/// `[features, in_features]` of one format.
#[derive(Debug)]
pub(in crate::linear) struct PackedWeight {
    pub(super) packing: Packing,
    /// How the rows are rounded that it is multiplied with.
    pub(in crate::linear) activations: ActivationPrecision,
    /// Multiplies all scales.
    pub(in crate::linear) factor: f32,
    /// Which k of x comes where, when weights along k are not in its order.
    pub(in crate::linear) order: Option<Vec<u32>>,
    features: usize,
    layout: TileLayout,
    /// U8 `[tiles, tile bytes]`
    tiles: Tensor,
}

/// Floats that the scales of a block of a format take, at most: two groups of eight `BLOCK`s, with minima.
const MOST_FLOATS: usize = 8 * 2 * 2 * TILE;

/// Where things lie in a tile; k is the tile's.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileLayout {
    /// `BLOCK`s of the first block of the format that have scales in the tile but no codes: a part of a matrix begins behind
    /// them. Even.
    pub skipped: usize,
    pub num_pairs: usize,
    pub scale_bytes: usize,
    pub pair_bytes: usize,
}

impl TileLayout {
    fn new(packing: Packing, columns: &Range<usize>) -> Self {
        let (skipped, num_pairs) = (columns.start / BLOCK, columns.len().div_ceil(2 * BLOCK));
        let num_blocks = (skipped + 2 * num_pairs).div_ceil(packing.scales.blocks());
        let scale_bytes = num_blocks * packing.scales.block_bytes();
        Self { skipped, num_pairs, scale_bytes, pair_bytes: packing.codes.pair_bytes() }
    }

    pub fn tile_bytes(&self) -> usize {
        self.scale_bytes + self.num_pairs * self.pair_bytes
    }
}

/// Bytes of a packed matrix; `None` when that overflows.
pub(in crate::linear) fn packed_bytes(
    packing: Packing,
    features: usize,
    in_features: usize,
) -> Option<usize> {
    let layout = TileLayout::new(packing, &(0..in_features));
    features.div_ceil(TILE).checked_mul(layout.tile_bytes())
}

/// Fills a tile of that number: its scales, its pairs.
type FillTile<'a> = dyn Fn(usize, &mut [u8], &mut [u8]) + Sync + 'a;

impl PackedWeight {
    /// Packs `columns` of `bytes`, GGUF rows of `row_len` weights: from inside the first block on to any pair of blocks.
    /// `None` when memory is short.
    pub(in crate::linear) fn pack(
        cpu: &CpuDevice,
        format: WeightFormat,
        packing: Packing,
        bytes: FileBytes,
        (row_len, columns): (usize, &Range<usize>),
    ) -> Option<Self> {
        let row_bytes = format.row_bytes(row_len)?;
        let features = bytes.len() / row_bytes;
        let mut packed = Self::with_columns(packing, features, columns)?;
        let layout = packed.layout;
        let shared = packed.tiles.view_mut();
        copy_in_parts(cpu, bytes, TILE * row_bytes, &|index, rows| {
            // SAFETY: each task writes its own row of the tensor.
            let tile = unsafe { shared.row_u8_shared(index) };
            if packing.codes == Codes::Halves {
                halves::pack_tile(format, rows, row_bytes, tile);
            } else {
                let tile = tile.split_at_mut(layout.scale_bytes);
                format.pack_tile(rows, row_bytes, layout.skipped / 2, tile);
            }
        });
        Some(packed)
    }

    /// Tiles of zeros. `None` when memory is short.
    pub(in crate::linear) fn empty(
        packing: Packing,
        features: usize,
        in_features: usize,
    ) -> Option<Self> {
        Self::with_columns(packing, features, &(0..in_features))
    }

    fn with_columns(packing: Packing, features: usize, columns: &Range<usize>) -> Option<Self> {
        let layout = TileLayout::new(packing, columns);
        let is_inside = layout.skipped < packing.scales.blocks();
        assert!(is_inside && columns.start.is_multiple_of(2 * BLOCK), "{columns:?} of {packing:?}");
        let tiles = Tensor::host(DType::U8, features.div_ceil(TILE), layout.tile_bytes())?;
        let activations = match packing.codes {
            Codes::Halves => ActivationPrecision::Bfloat16,
            _ => ActivationPrecision::default(),
        };
        Some(Self { packing, activations, factor: 1.0, order: None, features, layout, tiles })
    }

    /// Calls `fill` with each tile's number, scales and pairs, on all threads.
    pub(in crate::linear) fn fill(&mut self, cpu: &CpuDevice, fill: &FillTile) {
        let (num_tiles, scale_bytes) = (self.num_tiles(), self.layout.scale_bytes);
        let shared = self.tiles.view_mut();
        cpu.pool.run(num_tiles, &|tile| {
            // SAFETY: each task writes its own row of the tensor.
            let bytes = unsafe { shared.row_u8_shared(tile) };
            let (scales, pairs) = bytes.split_at_mut(scale_bytes);
            fill(tile, scales, pairs);
        });
    }

    pub(in crate::linear) fn features(&self) -> usize {
        self.features
    }

    pub(in crate::linear) fn has_scales(&self) -> bool {
        self.packing.scales != Scales::None
    }

    pub(in crate::linear) fn num_bytes(&self) -> usize {
        self.tiles.num_bytes()
    }

    pub(in crate::linear) fn span(&self) -> TileSpan {
        TileSpan {
            address: self.tiles.bytes().as_ptr().addr(),
            tile_bytes: self.layout.tile_bytes(),
            num_tiles: self.num_tiles(),
        }
    }

    pub(super) fn layout(&self) -> TileLayout {
        self.layout
    }

    pub(super) fn num_tiles(&self) -> usize {
        self.tiles.rows()
    }

    /// The bytes of tiles `first..`, the last tile's end included.
    pub(super) fn tiles_from(&self, first: usize) -> &[u8] {
        &self.tiles.bytes()[first * self.layout.tile_bytes()..]
    }

    /// Floats that the scales of a tile take.
    pub(super) fn num_scales(&self) -> usize {
        2 * self.layout.num_pairs * floats_per_block(self.packing.scales)
    }

    /// The scales of the tile that `tile` begins with, as float32; see `expand`.
    pub(super) fn expand_scales(
        &self,
        simd: SimdLevel,
        tile: &[u8],
        high_halves: bool,
        out: &mut [f32],
    ) {
        if !self.has_scales() {
            return;
        }
        let scales = &tile[..self.layout.scale_bytes];
        match self.layout.skipped {
            0 => expand(simd, self.packing, scales, high_halves, out),
            skipped => self.expand_from(skipped, (simd, high_halves), scales, out),
        }
        if self.factor != 1.0 {
            out.iter_mut().for_each(|scale| *scale *= self.factor);
        }
    }

    /// Without those of the first `BLOCK`s.
    fn expand_from(
        &self,
        skipped: usize,
        (simd, high_halves): (SimdLevel, bool),
        scales: &[u8],
        out: &mut [f32],
    ) {
        let kind = self.packing.scales;
        let (first, others) = scales.split_at(kind.block_bytes());
        let mut expanded = [0.0; MOST_FLOATS];
        let expanded = &mut expanded[..kind.blocks() * floats_per_block(kind)];
        expand(simd, self.packing, first, high_halves, expanded);
        let kept = &expanded[skipped * floats_per_block(kind)..];
        let len = kept.len().min(out.len());
        let (out, rest) = out.split_at_mut(len);
        out.copy_from_slice(&kept[..len]);
        expand(simd, self.packing, others, high_halves, rest);
    }

    /// The weights of one feature as float32, with the bits that `dequantize_row` gives.
    pub(in crate::linear) fn dequantize(&self, simd: SimdLevel, feature: usize, out: &mut [f32]) {
        let Some(order) = &self.order else { return self.dequantize_packed(simd, feature, out) };
        let mut packed = vec![0.0; out.len()];
        self.dequantize_packed(simd, feature, &mut packed);
        packed.into_iter().zip(order).for_each(|(weight, &k)| out[k as usize] = weight);
    }

    fn dequantize_packed(&self, simd: SimdLevel, feature: usize, out: &mut [f32]) {
        let (layout, scales) = (self.layout, self.packing.scales);
        let tile = &self.tiles_from(feature / TILE)[..layout.tile_bytes()];
        let pairs = &tile[layout.scale_bytes..];
        if self.packing.codes == Codes::Halves {
            return halves::unpack(pairs, feature % TILE, out);
        }
        with_scratch(self.num_scales(), |expanded| {
            self.expand_scales(simd, tile, false, expanded);
            let group = BLOCK / scales.groups_per_block();
            let per_group = floats_per_block(scales) / scales.groups_per_block();
            let numbers = expanded.chunks_exact(per_group).map(|group| {
                let minimum = scales.has_minimum().then(|| group[TILE + feature % TILE]);
                (group[feature % TILE], minimum)
            });
            let mut numbers = numbers;
            for (pair, out) in pairs.chunks_exact(layout.pair_bytes).zip(out.chunks_mut(2 * BLOCK))
            {
                let codes = self.packing.codes.unpack(pair, feature % TILE);
                for (out, codes) in out.chunks_mut(group).zip(codes.chunks_exact(group)) {
                    let (scale, minimum) = numbers.next().expect("a scale for each group");
                    self.packing.codes.dequantize(codes, scale, minimum, out);
                }
            }
        });
    }
}

impl Codes {
    /// `scale · code + minimum`, or `scale · (code − offset)`.
    fn dequantize(self, codes: &[u8], scale: f32, minimum: Option<f32>, out: &mut [f32]) {
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = match (minimum, self) {
                (Some(minimum), _) => scale * f32::from(code) + minimum,
                (None, Self::Table(table) | Self::TableOfEight(table)) => {
                    scale * f32::from(table[usize::from(code)])
                }
                (None, _) => scale * (i32::from(code) - self.offset()) as f32,
            };
        }
    }
}

/// Fills a tile (scales, pairs) from up to `TILE` rows of blocks that `split` takes apart. Of the first block the pairs
/// before `first_pair` are left out.
#[inline(always)]
pub(in crate::linear) fn pack_blocks<const BYTES: usize, const ELEMENTS: usize>(
    packing: Packing,
    split: impl Fn(&[u8; BYTES], &mut [u8; ELEMENTS], &mut BlockScales),
    (rows, row_bytes): (&[u8], usize),
    first_pair: usize,
    (scales, pairs): (&mut [u8], &mut [u8]),
) {
    let blocks_at_once = (2 * BLOCK / ELEMENTS).max(1);
    let pairs_at_once = blocks_at_once * ELEMENTS / (2 * BLOCK);
    let (pair_bytes, block_bytes) = (packing.codes.pair_bytes(), packing.scales.block_bytes());
    let mut later = pairs;
    for (unit, scales) in scales.chunks_exact_mut(blocks_at_once * block_bytes).enumerate() {
        let skipped = if unit == 0 { first_pair } else { 0 };
        // A row may end within a block.
        let own_bytes = ((pairs_at_once - skipped) * pair_bytes).min(later.len());
        let own;
        (own, later) = later.split_at_mut(own_bytes);
        for (feature, row) in rows.chunks_exact(row_bytes).enumerate() {
            let blocks = row.as_chunks::<BYTES>().0;
            let blocks = &blocks[blocks.len().min(unit * blocks_at_once)..];
            let mut codes = [[0; ELEMENTS]; 2];
            let fields = scales.chunks_exact_mut(block_bytes);
            for ((block, codes), fields) in blocks.iter().zip(&mut codes).zip(fields) {
                let mut block_scales = BlockScales::default();
                split(block, codes, &mut block_scales);
                packing.scales.pack(&block_scales, feature, fields);
            }
            let codes = codes.as_flattened().as_chunks::<{ 2 * BLOCK }>().0;
            let codes = codes.iter().skip(skipped);
            let pairs = own.chunks_exact_mut(pair_bytes);
            codes.zip(pairs).for_each(|(codes, pair)| packing.codes.pack(codes, feature, pair));
        }
    }
}
