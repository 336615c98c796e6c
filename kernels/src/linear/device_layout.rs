//! How quantized weights lie in the memory of a GPU: what `codes.cuh` and `scales.cuh` read.
//!
//! 16 features are a tile. Its codes lie block after block of 64 weights; a block is cut into planes of bits, each with some
//! whole words for each of the 32 lanes of a warp, so that a warp reads a plane by one vector load a lane. Lane 4·g + c
//! has the features g and g + 8, and of each 16 weights (a step) the four from 4·c on, as four pairs of neighbours; the
//! two codes of a pair lie in the two halves of a word. Its scales lie record after record of 256 weights: first fields of
//! all features, then the float16 that they are multiplied with. What is behind the last weight or feature is 0.

use super::format::WeightFormat;
use super::packed::{BlockScales, Codes, Scales};

/// Features of a tile.
pub(super) const TILE: usize = 16;

/// Weights of a block of codes, and of a record of scales.
const BLOCK: usize = 64;
const RECORD: usize = 256;

/// Formats that have kernels, and how those are called. A new one is a line here and a file `<name>.cu`.
const KERNELS: &[(WeightFormat, &str)] = &[
    (WeightFormat::Q4_0, "q4_0"),
    (WeightFormat::Q4_1, "q4_1"),
    (WeightFormat::Q5_0, "q5_0"),
    (WeightFormat::Q5_1, "q5_1"),
    (WeightFormat::Q8_0, "q8_0"),
    (WeightFormat::Q2K, "q2_k"),
    (WeightFormat::Q3K, "q3_k"),
    (WeightFormat::Q4K, "q4_k"),
    (WeightFormat::Q5K, "q5_k"),
    (WeightFormat::Q6K, "q6_k"),
    (WeightFormat::Iq4Nl, "iq4_nl"),
    (WeightFormat::Iq4Xs, "iq4_xs"),
    (WeightFormat::Mxfp4, "mxfp4"),
];

/// The layout of one format.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceLayout {
    format: WeightFormat,
    /// What the names of its kernels end in.
    pub name: &'static str,
    /// Bits of each plane, the lowest first.
    planes: &'static [usize],
    scales: Scales,
    /// Bytes of a feature in a record: fields, float16 numbers.
    field_bytes: usize,
    head_bytes: usize,
}

impl DeviceLayout {
    /// `None`: the format has no kernel, its weights are BF16 on a GPU.
    pub(super) fn of(format: WeightFormat) -> Option<Self> {
        let &(_, name) = KERNELS.iter().find(|(kernel, _)| *kernel == format)?;
        let packing = format.packing()?;
        let planes: &[usize] = match packing.codes {
            Codes::Two => &[2],
            Codes::Three => &[2, 1],
            Codes::Four | Codes::Table(_) => &[4],
            Codes::Five => &[4, 1],
            Codes::Six => &[4, 2],
            Codes::Eight => &[8],
            Codes::TableOfEight(_) | Codes::Halves => return None,
        };
        let (field_bytes, head_bytes) = match packing.scales {
            Scales::Half { blocks: 1 } => (16, 0),
            Scales::HalfAndMinimum => (32, 0),
            Scales::Signed { groups, shift: 0 } => (groups, 2),
            Scales::UnsignedAndMinimum | Scales::NibblesAndMinimum => (16, 4),
            Scales::Exponent => (8, 0),
            _ => return None,
        };
        let scales = packing.scales;
        Some(Self { format, name, planes, scales, field_bytes, head_bytes })
    }

    fn block_bytes(self) -> usize {
        TILE * BLOCK * self.planes.iter().sum::<usize>() / 8
    }

    fn record_bytes(self) -> usize {
        TILE * (self.field_bytes + self.head_bytes)
    }

    /// Bytes of a tile: codes, scales.
    pub(super) fn tile_bytes(self, in_features: usize) -> (usize, usize) {
        let codes = in_features.div_ceil(BLOCK) * self.block_bytes();
        (codes, in_features.div_ceil(RECORD) * self.record_bytes())
    }

    /// Fills a tile, which is all 0 before, from up to 16 rows of `row_bytes`.
    pub(super) fn pack(self, rows: &[u8], row_bytes: usize, codes: &mut [u8], scales: &mut [u8]) {
        let mut values = vec![0; self.format.block_elements()];
        for (feature, row) in rows.chunks_exact(row_bytes).enumerate() {
            for (index, block) in row.chunks_exact(self.format.block_bytes()).enumerate() {
                let fields = self.format.split(block, &mut values);
                self.put_codes(&values, feature, index * values.len(), codes);
                let record = index * values.len() / RECORD * self.record_bytes();
                let record = &mut scales[record..][..self.record_bytes()];
                self.put_scales(&fields, feature, index, record);
            }
        }
    }

    /// The codes of the weights from `first` on of one feature.
    fn put_codes(self, values: &[u8], feature: usize, first: usize, codes: &mut [u8]) {
        for (index, four) in values.as_chunks::<4>().0.iter().enumerate() {
            let k = first + 4 * index;
            let (step, lane) = (k % BLOCK / 16, feature % 8 * 4 + k % 16 / 4);
            let mut plane = k / BLOCK * self.block_bytes();
            let mut low = 0;
            for &bits in self.planes {
                let field = |code: u8| u32::from(code >> low) & ((1 << bits) - 1);
                for (pair, two) in [feature / 8, feature / 8 + 2].into_iter().zip(four.chunks(2)) {
                    let (word, shift) = place(bits, step, pair);
                    let at = plane + 4 * (lane * bits + word);
                    let word = codes[at..].first_chunk_mut::<4>().expect("a word of the plane");
                    let halves = (field(two[0]) | field(two[1]) << 16) << shift;
                    *word = (u32::from_le_bytes(*word) | halves).to_le_bytes();
                }
                plane += TILE * BLOCK * bits / 8;
                low += bits;
            }
        }
    }

    /// The fields of block `index` of the format, in the record that it belongs to.
    fn put_scales(self, fields: &BlockScales, feature: usize, index: usize, record: &mut [u8]) {
        let (all_fields, heads) = record.split_at_mut(TILE * self.field_bytes);
        let own = &mut all_fields[feature * self.field_bytes..][..self.field_bytes];
        let head = &mut heads[feature * self.head_bytes..][..self.head_bytes];
        let halves = fields.halves.map(u16::to_le_bytes);
        let group = index % (RECORD / 32);
        match self.scales {
            Scales::Half { .. } => own[2 * group..][..2].copy_from_slice(&halves[0]),
            Scales::HalfAndMinimum => {
                own[2 * group..][..2].copy_from_slice(&halves[0]);
                own[16 + 2 * group..][..2].copy_from_slice(&halves[1]);
            }
            Scales::Exponent => own[group] = fields.bytes[0],
            _ => {
                own.copy_from_slice(&fields.bytes[..self.field_bytes]);
                head.copy_from_slice(&halves.as_flattened()[..self.head_bytes]);
            }
        }
    }
}

/// Word and lowest bit of a pair in a lane's words of a plane.
fn place(bits: usize, step: usize, pair: usize) -> (usize, usize) {
    match bits {
        8 => (2 * step + pair / 2, 8 * (pair % 2)),
        _ => (step * bits / 4, bits * (step % (4 / bits) * 4 + pair)),
    }
}
