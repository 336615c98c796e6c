//! What the IQ formats share: codebooks of eight or four small numbers, signs, and scales d · byte · 2^−shift.
//!
//! Numbers of a codebook are packed as their index, with the sign above it: a table makes them again, exactly. So IQ1 and
//! IQ2 take 3 bits a weight in memory and IQ3 takes 4, beside the scales.

use super::block::f16_to_f32;
use super::packed::{BlockScales, Codes, Packing, Scales};
use crate::cpu::SimdLevel;
use crate::linear::bytes::Bytes;

pub(super) const ELEMENTS: usize = 256;

/// Written by `tests/data/dequant/make_grids.py`: entries of 16 bits, eight fields of 2 bits or four of 3.
const GRIDS: &[u8; 9216] = include_bytes!("iq_grids.bin");

/// A codebook: how many entries lie before it.
#[derive(Clone, Copy)]
pub(super) enum Grid {
    Iq2Xxs = 0,
    Iq2Xs = 256,
    Iq2S = 256 + 512,
    Iq3Xxs = 256 + 512 + 1024,
    Iq3S = 256 + 512 + 1024 + 256,
    Iq1 = 256 + 512 + 1024 + 256 + 512,
}

/// The numbers of the IQ2 codebooks; from index 4 on, negative.
pub(super) const IQ2_TABLE: [i8; 16] = {
    let mut table = [0; 16];
    (table[0], table[1], table[2]) = (8, 25, 43);
    (table[4], table[5], table[6]) = (-8, -25, -43);
    table
};

/// Eight times the numbers −1, 0 and 1 of the IQ1 codebook, and 1 more, or from index 4 on 1 less.
pub(super) const IQ1_TABLE: [i8; 16] = {
    let mut table = [0; 16];
    (table[0], table[1], table[2]) = (-7, 1, 9);
    (table[4], table[5], table[6]) = (-9, -1, 7);
    table
};

impl Grid {
    /// Indices of eight numbers, with bit 2 where `signs` has a bit.
    #[inline(always)]
    pub(super) fn eight(self, entry: usize, signs: u8, codes: &mut [u8]) {
        let fields = self.entry(entry);
        for (i, code) in codes[..8].iter_mut().enumerate() {
            *code = (fields >> (2 * i) & 3) as u8 | (signs >> i & 1) << 2;
        }
    }

    /// Indices of four numbers, with bit 3 where `signs` has a bit.
    #[inline(always)]
    pub(super) fn four(self, entry: usize, signs: u8, codes: &mut [u8]) {
        let fields = self.entry(entry);
        for (i, code) in codes[..4].iter_mut().enumerate() {
            *code = (fields >> (3 * i) & 7) as u8 | (signs >> i & 1) << 3;
        }
    }

    #[inline(always)]
    fn entry(self, entry: usize) -> u16 {
        let at = 2 * (self as usize + entry);
        u16::from_le_bytes([GRIDS[at], GRIDS[at + 1]])
    }
}

/// Eight signs from seven bits: their number is even.
#[inline(always)]
pub(super) fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | ((seven.count_ones() & 1) as u8) << 7
}

/// `2·nibble + 1` for the 16 nibbles of eight bytes, the low ones first.
#[inline(always)]
pub(super) fn odd_scales(bytes: &[u8], scales: &mut [u8]) {
    for (group, scale) in scales.iter_mut().enumerate() {
        *scale = 2 * (bytes[group / 2] >> (4 * (group % 2)) & 15) + 1;
    }
}

/// Blocks of codes that stand for entries of a table.
#[inline(always)]
pub(super) fn dequantize(
    simd: SimdLevel,
    packing: Packing,
    split: impl Fn(&mut [u8; ELEMENTS], &mut BlockScales),
    out: &mut [f32; ELEMENTS],
) {
    let (mut codes, mut scales) = ([0; ELEMENTS], BlockScales::default());
    split(&mut codes, &mut scales);
    let Packing {
        codes: Codes::Table(table) | Codes::TableOfEight(table),
        scales: Scales::Signed { groups, shift },
    } = packing
    else {
        unreachable!("IQ formats have tables and scales")
    };
    let d = f16_to_f32(scales.halves[0]) / f32::from(1_u16 << shift);
    let groups = out.chunks_exact_mut(ELEMENTS / groups).zip(codes.chunks_exact(ELEMENTS / groups));
    for ((out, codes), byte) in groups.zip(scales.bytes) {
        let scale = d * f32::from(byte);
        for (out, codes) in out.chunks_exact_mut(16).zip(codes.chunks_exact(16)) {
            Bytes::load(codes).look_up(simd, table).scale(simd, scale, out);
        }
    }
}
