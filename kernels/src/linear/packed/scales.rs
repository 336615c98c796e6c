//! The scales of a tile as float32, made once for all rows of x.

use super::TILE;
use super::packing::{Codes, GroupScaleKind, Packing, Scales};
use crate::cpu::SimdLevel;
use crate::cpu::math::per_simd_level;
use crate::linear::block::f16_to_f32;
use crate::linear::nvfp4::half_micro_float;

type Features<T> = [T; TILE];

/// Float32 of a block of `BLOCK` weights: for each group the scales of all features, then their minima.
pub(super) const fn floats_per_block(scales: Scales) -> usize {
    match scales {
        Scales::None => 0,
        _ => TILE * scales.groups_per_block() * if scales.has_minimum() { 2 } else { 1 },
    }
}

/// `packed`: the scales of whole blocks of the format, in pairs where a block has `BLOCK` weights.
/// `high_halves`: the codes of a pair's second block will be used 16 times too large.
pub(super) fn expand(
    simd: SimdLevel,
    packing: Packing,
    packed: &[u8],
    high_halves: bool,
    out: &mut [f32],
) {
    let high_halves = high_halves && packing.codes == Codes::Four;
    let second = if high_halves { 1.0 / 16.0 } else { 1.0 };
    expand_for(simd, packing.scales, packed, second, out);
}

per_simd_level! {
    fn expand_for(scales: Scales, packed: &[u8], second: f32, out: &mut [f32]) = expand_body
}

/// Loops over whole vectors only: a closure would be compiled for the plain machine and called.
#[inline(always)]
fn expand_body<const FMA: bool>(scales: Scales, packed: &[u8], second: f32, out: &mut [f32]) {
    let blocks = packed.chunks_exact(scales.block_bytes()).enumerate();
    // A row may end within a block.
    let floats = scales.blocks() * floats_per_block(scales);
    for ((index, block), out) in blocks.zip(out.chunks_mut(floats)) {
        let out = out.as_chunks_mut::<TILE>().0;
        match scales {
            Scales::None => {}
            Scales::Half { .. } => {
                let (first, others) = out.split_first_mut().expect("a scale");
                halves::<FMA>(block, 0, factor(index, second), first);
                others.fill(*first);
            }
            Scales::HalfAndMinimum => {
                halves::<FMA>(block, 0, factor(index, second), &mut out[0]);
                halves::<FMA>(block, 1, 1.0, &mut out[1]);
            }
            Scales::Signed { shift, .. } => {
                let mut d = [0.0; TILE];
                halves::<FMA>(block, 0, 1.0 / f32::from(1_u16 << shift), &mut d);
                for (group, out) in out.iter_mut().enumerate() {
                    let bytes = bytes(block, 2 * TILE, group);
                    for i in 0..TILE {
                        out[i] = d[i] * f32::from(bytes[i].cast_signed());
                    }
                }
            }
            Scales::UnsignedAndMinimum => {
                let (mut d, mut m) = ([0.0; TILE], [0.0; TILE]);
                halves::<FMA>(block, 0, 1.0, &mut d);
                halves::<FMA>(block, 1, -1.0, &mut m);
                for (group, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    let scales = bytes(block, 4 * TILE, group);
                    let minima = bytes(block, 4 * TILE, 8 + group);
                    let factor = factor(group, second);
                    for i in 0..TILE {
                        out[0][i] = d[i] * f32::from(scales[i]) * factor;
                        out[1][i] = m[i] * f32::from(minima[i]);
                    }
                }
            }
            Scales::NibblesAndMinimum => {
                let (mut d, mut m) = ([0.0; TILE], [0.0; TILE]);
                halves::<FMA>(block, 0, 1.0, &mut d);
                halves::<FMA>(block, 1, -1.0, &mut m);
                for (group, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    let bytes = bytes(block, 4 * TILE, group);
                    for i in 0..TILE {
                        out[0][i] = d[i] * f32::from(bytes[i] & 15);
                        out[1][i] = m[i] * f32::from(bytes[i] >> 4);
                    }
                }
            }
            Scales::Exponent => {
                let bytes = bytes(block, 0, 0);
                for i in 0..TILE {
                    out[0][i] = half_power_of_two(bytes[i]);
                }
            }
            Scales::Groups { kind, blocks, zeros } => {
                groups::<FMA>(block, kind, zeros, (index * blocks, second), out);
            }
            Scales::MicroFloats => {
                for (group, out) in out.iter_mut().enumerate() {
                    let bytes = bytes(block, 0, group);
                    for i in 0..TILE {
                        out[i] = half_micro_float(bytes[i]);
                    }
                }
            }
        }
    }
}

/// Scales of one group, or scales and minima, for each of its blocks.
#[inline(always)]
fn groups<const FMA: bool>(
    block: &[u8],
    kind: GroupScaleKind,
    zeros: bool,
    (first, second): (usize, f32),
    out: &mut [Features<f32>],
) {
    let mut d = [0.0; TILE];
    let bits = |field: usize, i: usize| {
        let at = 2 * (field * TILE + i);
        u32::from(u16::from_le_bytes([block[at], block[at + 1]]))
    };
    match kind {
        GroupScaleKind::F16 => halves::<FMA>(block, 0, 1.0, &mut d),
        GroupScaleKind::Bf16 => {
            for i in 0..TILE {
                d[i] = f32::from_bits(bits(0, i) << 16);
            }
        }
        GroupScaleKind::F32 => {
            for i in 0..TILE {
                d[i] = f32::from_bits(bits(1, i) << 16 | bits(0, i));
            }
        }
    }
    if !zeros {
        for (index, out) in out.iter_mut().enumerate() {
            let factor = factor(first + index, second);
            for i in 0..TILE {
                out[i] = d[i] * factor;
            }
        }
        return;
    }
    let halves = if kind == GroupScaleKind::F32 { 2 } else { 1 };
    let zeros = bytes(block, 2 * TILE * halves, 0);
    for (index, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let factor = factor(first + index, second);
        for i in 0..TILE {
            out[0][i] = d[i] * factor;
            out[1][i] = -(d[i] * f32::from(zeros[i]));
        }
    }
}

/// Exact: a power of two.
#[inline(always)]
fn factor(block: usize, second: f32) -> f32 {
    if block % 2 == 1 { second } else { 1.0 }
}

#[inline(always)]
fn bytes(block: &[u8], first: usize, field: usize) -> &Features<u8> {
    block[first + field * TILE..].first_chunk().expect("a field of the block")
}

/// Float16 field `field` times `factor`; `FMA` means that the machine also converts them.
#[inline(always)]
fn halves<const FMA: bool>(block: &[u8], field: usize, factor: f32, out: &mut Features<f32>) {
    let halves = &block[2 * field * TILE..].as_chunks::<2>().0[..TILE];
    #[cfg(target_arch = "x86_64")]
    if FMA {
        use std::arch::x86_64::{
            _mm_loadu_si128, _mm256_cvtph_ps, _mm256_mul_ps, _mm256_set1_ps, _mm256_storeu_ps,
        };
        for part in 0..TILE / 8 {
            // SAFETY: levels with FMA have F16C; 8 of TILE numbers are read and written.
            unsafe {
                let from = _mm_loadu_si128(halves.as_ptr().add(8 * part).cast());
                let values = _mm256_mul_ps(_mm256_cvtph_ps(from), _mm256_set1_ps(factor));
                _mm256_storeu_ps(out.as_mut_ptr().add(8 * part), values);
            }
        }
        return;
    }
    for (out, &half) in out.iter_mut().zip(halves) {
        *out = f16_to_f32(u16::from_le_bytes(half)) * factor;
    }
}

/// 2^(e − 128); the two smallest are subnormal.
#[inline(always)]
fn half_power_of_two(e: u8) -> f32 {
    let e = u32::from(e);
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 })
}
