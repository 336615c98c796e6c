//! Packing: which bits of a format go where in a tile.
//!
//! A tile holds `TILE` output features as one stream: the scales of all blocks as the format has them, one field of all
//! features after the other; then the codes, a pair of blocks of `BLOCK` weights after the other. The codes of a pair
//! are split into bit planes. A plane is a run of vectors of 4 bytes a feature, the operand of the dot product
//! instructions: byte `4·feature + i` belongs to k = `4·step + i`. Of each byte the lower half belongs to the first
//! block of the pair and the upper half to the second; a half holds the bits of one or more steps (`shift_of`).

use super::{BLOCK, TILE};

/// How the blocks of a format are packed.
#[derive(Clone, Copy, Debug)]
pub(in crate::linear) struct Packing {
    pub codes: Codes,
    pub scales: Scales,
}

/// Bits of a code. Without a minimum a code means `code − offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::linear) enum Codes {
    Two,
    Three,
    /// Three bits that stand for one of the first eight entries.
    TableOfEight(&'static [i8; 16]),
    Four,
    /// Four bits that stand for an entry.
    Table(&'static [i8; 16]),
    Five,
    Six,
    Eight,
    /// BF16 numbers: see `halves.rs`.
    Halves,
}

/// The fields of a block and the scales they make; d and m are float16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::linear) enum Scales {
    /// Codes are the numbers.
    None,
    /// d for so many times 32 weights.
    Half { blocks: usize },
    /// d and m for 32 weights.
    HalfAndMinimum,
    /// d and so many signed bytes for 256 weights: d · byte · 2^−shift.
    Signed { groups: usize, shift: u8 },
    /// d, m, 8 bytes, 8 bytes for 256 weights: d · byte, −m · byte.
    UnsignedAndMinimum,
    /// d, m and 16 bytes for 256 weights: d · lower half, −m · upper half.
    NibblesAndMinimum,
    /// One byte e for 32 weights: 2^(e − 128).
    Exponent,
    /// Four bytes for 64 weights: half of an E4M3 number for 16.
    MicroFloats,
    /// A float for so many times 32 weights, and a byte z: d, −d · z.
    Groups { kind: GroupScaleKind, blocks: usize, zeros: bool },
}

/// How the float of a group lies in a block's halves; a float32 has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::linear) enum GroupScaleKind {
    F16,
    Bf16,
    F32,
}

/// The fields of one block before they are packed.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::linear) struct BlockScales {
    pub halves: [u16; 2],
    pub bytes: [u8; 16],
}

impl Codes {
    /// Bytes of two blocks of a tile.
    pub const fn pair_bytes(self) -> usize {
        let bits = match self {
            Self::Two => 2,
            Self::Three | Self::TableOfEight(_) => 3,
            Self::Four | Self::Table(_) => 4,
            Self::Five => 5,
            Self::Six => 6,
            Self::Eight => 8,
            Self::Halves => 16,
        };
        2 * BLOCK * TILE * bits / 8
    }

    /// What is subtracted from a code that has no minimum.
    pub const fn offset(self) -> i32 {
        match self {
            Self::Two => 1,
            Self::Three => 4,
            Self::Four => 8,
            Self::Five => 16,
            Self::Six => 32,
            Self::Table(_) | Self::TableOfEight(_) | Self::Eight | Self::Halves => 128,
        }
    }

    /// The 8-bit codes that the entries of a table stand for.
    pub fn table(self) -> [u8; 16] {
        match self {
            Self::Table(table) | Self::TableOfEight(table) => {
                table.map(|value| value.cast_unsigned() ^ 0x80)
            }
            _ => [0; 16],
        }
    }

    /// Splits the codes of one feature, two blocks of them, over the planes of a pair.
    #[inline(always)]
    pub fn pack(self, codes: &[u8; 2 * BLOCK], feature: usize, pair: &mut [u8]) {
        match self {
            Self::Two => pack_plane::<2, 0>(codes, feature, pair),
            Self::Four | Self::Table(_) => pack_plane::<4, 0>(codes, feature, pair),
            Self::Three | Self::TableOfEight(_) => {
                let (low, high) = pair.split_at_mut(PLANE_BYTES * 2);
                pack_plane::<2, 0>(codes, feature, low);
                pack_plane::<1, 2>(codes, feature, high);
            }
            Self::Five | Self::Six => {
                let (low, high) = pair.split_at_mut(PLANE_BYTES * 4);
                pack_plane::<4, 0>(codes, feature, low);
                match self {
                    Self::Five => pack_plane::<1, 4>(codes, feature, high),
                    _ => pack_plane::<2, 4>(codes, feature, high),
                }
            }
            Self::Halves => unreachable!("`halves::pack_tile`"),
            Self::Eight => {
                for (step, codes) in codes.chunks_exact(4).enumerate() {
                    pair[word_at(step, feature)..][..4].copy_from_slice(codes);
                }
            }
        }
    }

    /// The reverse of `pack`.
    pub fn unpack(self, pair: &[u8], feature: usize) -> [u8; 2 * BLOCK] {
        let mut codes = [0; 2 * BLOCK];
        match self {
            Self::Two => unpack_plane::<2, 0>(pair, feature, &mut codes),
            Self::Four | Self::Table(_) => unpack_plane::<4, 0>(pair, feature, &mut codes),
            Self::Three | Self::TableOfEight(_) => {
                unpack_plane::<2, 0>(pair, feature, &mut codes);
                unpack_plane::<1, 2>(&pair[PLANE_BYTES * 2..], feature, &mut codes);
            }
            Self::Five => {
                unpack_plane::<4, 0>(pair, feature, &mut codes);
                unpack_plane::<1, 4>(&pair[PLANE_BYTES * 4..], feature, &mut codes);
            }
            Self::Six => {
                unpack_plane::<4, 0>(pair, feature, &mut codes);
                unpack_plane::<2, 4>(&pair[PLANE_BYTES * 4..], feature, &mut codes);
            }
            Self::Halves => unreachable!("`halves::unpack`"),
            Self::Eight => {
                for (step, codes) in codes.chunks_exact_mut(4).enumerate() {
                    codes.copy_from_slice(&pair[word_at(step, feature)..][..4]);
                }
            }
        }
        codes
    }
}

impl Scales {
    /// Float16 fields and byte fields of a block.
    pub const fn num_fields(self) -> (usize, usize) {
        match self {
            Self::None => (0, 0),
            Self::Half { .. } => (1, 0),
            Self::HalfAndMinimum => (2, 0),
            Self::Signed { groups, .. } => (1, groups),
            Self::UnsignedAndMinimum | Self::NibblesAndMinimum => (2, 16),
            Self::Exponent => (0, 1),
            Self::MicroFloats => (0, 4),
            Self::Groups { kind: GroupScaleKind::F32, zeros, .. } => (2, zeros as usize),
            Self::Groups { zeros, .. } => (1, zeros as usize),
        }
    }

    /// Bytes of a block of a tile.
    pub const fn block_bytes(self) -> usize {
        let (halves, bytes) = self.num_fields();
        (2 * halves + bytes) * TILE
    }

    pub const fn has_minimum(self) -> bool {
        matches!(
            self,
            Self::HalfAndMinimum
                | Self::UnsignedAndMinimum
                | Self::NibblesAndMinimum
                | Self::Groups { zeros: true, .. }
        )
    }

    /// Weights of a block of the format, in times `BLOCK`.
    pub const fn blocks(self) -> usize {
        match self {
            Self::None | Self::HalfAndMinimum | Self::Exponent => 1,
            Self::MicroFloats => 2,
            Self::Signed { .. } | Self::UnsignedAndMinimum | Self::NibblesAndMinimum => 8,
            Self::Half { blocks } | Self::Groups { blocks, .. } => blocks,
        }
    }

    /// Scales that `BLOCK` weights have: one, or one for each half.
    pub const fn groups_per_block(self) -> usize {
        match self {
            Self::Signed { groups: 16, .. } | Self::NibblesAndMinimum | Self::MicroFloats => 2,
            _ => 1,
        }
    }

    /// Puts the fields of one feature into a block of a tile.
    #[inline(always)]
    pub fn pack(self, scales: &BlockScales, feature: usize, block: &mut [u8]) {
        let (num_halves, num_bytes) = self.num_fields();
        for (field, half) in scales.halves.iter().take(num_halves).enumerate() {
            let at = 2 * (field * TILE + feature);
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        for (field, &byte) in scales.bytes.iter().take(num_bytes).enumerate() {
            block[(2 * num_halves + field) * TILE + feature] = byte;
        }
    }
}

/// Bytes of a plane of one bit.
pub(super) const PLANE_BYTES: usize = 2 * BLOCK * TILE / 8;

/// Where the word of a feature lies in vector `vector` of a plane.
const fn word_at(vector: usize, feature: usize) -> usize {
    4 * (vector * TILE + feature)
}

/// Lowest bit of the field of `step` (0..8) of a block (0 or 1 of the pair) in a plane of `bits`.
pub(super) const fn shift_of(bits: usize, block: usize, step: usize) -> usize {
    4 * block + bits * (step % (4 / bits))
}

const fn repeated(byte: u8) -> u32 {
    u32::from_le_bytes([byte; 4])
}

/// Bits `LOW..LOW + BITS` of the codes.
#[inline(always)]
fn pack_plane<const BITS: usize, const LOW: usize>(
    codes: &[u8; 2 * BLOCK],
    feature: usize,
    plane: &mut [u8],
) {
    let mask = repeated((1 << BITS) - 1);
    let words = codes.as_chunks::<4>().0;
    let steps = 4 / BITS;
    for vector in 0..8 / steps {
        let mut word = 0;
        for step in vector * steps..(vector + 1) * steps {
            for block in 0..2 {
                let code = u32::from_le_bytes(words[8 * block + step]);
                word |= (code >> LOW & mask) << shift_of(BITS, block, step);
            }
        }
        plane[word_at(vector, feature)..][..4].copy_from_slice(&word.to_le_bytes());
    }
}

#[inline(always)]
fn unpack_plane<const BITS: usize, const LOW: usize>(
    plane: &[u8],
    feature: usize,
    codes: &mut [u8; 2 * BLOCK],
) {
    let mask = repeated((1 << BITS) - 1);
    for (index, code) in codes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let (block, step) = (index / 8, index % 8);
        let word = plane[word_at(step / (4 / BITS), feature)..].first_chunk();
        let word = u32::from_le_bytes(*word.expect("a word of the plane"));
        let field = (word >> shift_of(BITS, block, step) & mask) << LOW;
        *code = (u32::from_le_bytes(*code) | field).to_le_bytes();
    }
}
