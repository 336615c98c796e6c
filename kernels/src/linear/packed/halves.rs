//! Floats of 16 bits in tiles, for dot products of BF16: how they lie there, how x is rounded, and the inner loop.
//!
//! A tile has no scales. The codes of a pair of blocks are vectors of 4 bytes a feature, as those of other formats: the
//! vector of `step` has BF16 numbers `2·step` and `2·step + 1` of each feature. F16 becomes BF16 when it is packed, which
//! gives back what a model was trained in where that was BF16.
//!
//! An output is, over k in pairs of ascending order, `sum = fma(w[k + 1], x[k + 1], sum)`, then `sum = fma(w[k], x[k],
//! sum)`, where subnormal numbers count as zero: the instruction VDPBF16PS. Nothing else enters, so the bits do not depend
//! on how many rows are computed together.

#[cfg(target_arch = "x86_64")]
#[allow(clippy::wildcard_imports, reason = "every name of it starts with _mm")]
use std::arch::x86_64::*;

use super::activations::PANEL;
use super::kernel::{Call, Kernel, Prefetch};
use super::packing::{Codes, Packing, Scales};
use super::{BLOCK, TILE};
use crate::linear::format::WeightFormat;

pub(in crate::linear) const PACKING: Packing =
    Packing { codes: Codes::Halves, scales: Scales::None };

/// Bytes of a step: two numbers of each feature.
const STEP_BYTES: usize = 4 * TILE;

/// Whether these weights can lie in such tiles.
pub(in crate::linear) fn takes(format: WeightFormat) -> bool {
    matches!(format, WeightFormat::F16 | WeightFormat::BF16)
}

/// Fills the pairs of a tile from up to `TILE` rows of a `format` that `takes` names.
pub(super) fn pack_tile(format: WeightFormat, rows: &[u8], row_bytes: usize, pairs: &mut [u8]) {
    let to_bf16 = |number: [u8; 2]| match format {
        WeightFormat::F16 => half::bf16::from_f32(half::f16::from_le_bytes(number).to_f32()),
        _ => half::bf16::from_le_bytes(number),
    };
    for (feature, row) in rows.chunks_exact(row_bytes).enumerate() {
        let numbers = row.as_chunks::<2>().0.chunks(2);
        for (step, numbers) in pairs.chunks_exact_mut(STEP_BYTES).zip(numbers) {
            let word = &mut step[4 * feature..][..4];
            for (to, &number) in word.as_chunks_mut::<2>().0.iter_mut().zip(numbers) {
                *to = to_bf16(number).to_le_bytes();
            }
        }
    }
}

/// The weights of one feature of a tile's pairs.
pub(super) fn unpack(pairs: &[u8], feature: usize, out: &mut [f32]) {
    for (step, out) in pairs.chunks_exact(STEP_BYTES).zip(out.chunks_mut(2)) {
        let numbers = step[4 * feature..][..4].as_chunks::<2>().0;
        for (out, &number) in out.iter_mut().zip(numbers) {
            *out = half::bf16::from_le_bytes(number).to_f32();
        }
    }
}

/// Rounds a row of x to BF16 (to nearest, ties to even) into its place in a panel.
pub(super) fn round_row(x: &[f32], panel: &mut [u8], row: usize) {
    let blocks = panel.chunks_exact_mut(PANEL * 2 * BLOCK);
    for (index, panel) in blocks.enumerate() {
        let mut block = [0.0; BLOCK];
        let rest = &x[x.len().min(index * BLOCK)..];
        let len = rest.len().min(BLOCK);
        block[..len].copy_from_slice(&rest[..len]);
        let to = panel[row * 2 * BLOCK..].first_chunk_mut().expect("a row of a block");
        // SAFETY: halves are packed on machines with the instruction alone.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            round_block(&block, to);
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("{to:?}: an x86 instruction");
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn round_block(block: &[f32; BLOCK], to: &mut [u8; 2 * BLOCK]) {
    // SAFETY: 32 floats are read and 64 bytes written.
    unsafe {
        let low = _mm512_loadu_ps(block.as_ptr());
        let high = _mm512_loadu_ps(block.as_ptr().add(BLOCK / 2));
        let rounded: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
        _mm512_storeu_si512(to.as_mut_ptr().cast(), rounded);
    }
}

/// The loop for 1, 2, 4 and 8 rows.
pub(super) fn kernel() -> Kernel {
    #[cfg(target_arch = "x86_64")]
    return Kernel {
        multiply: [multiply::<1>, multiply::<2>, multiply::<4>, multiply::<8>],
        most_rows: 8,
        num_features: TILE,
        extra: None,
        high_halves: false,
        prefetches: BLOCK,
    };
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("an x86 instruction")
}

/// # Safety
/// `call` is as it says for `ROWS` rows of BF16 and a tile of halves; the machine has AVX-512 BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn multiply<const ROWS: usize>(call: &Call, prefetch: &mut Prefetch) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    let (mut codes, mut x) = (call.codes, call.x);
    for _ in 0..2 * call.num_pairs {
        for step in 0..BLOCK / 2 {
            prefetch.advance();
            // SAFETY: the caller's promise; the pointers end at the last pair's end.
            unsafe {
                let weights = [load(codes), load(codes.add(64))];
                for row in 0..ROWS {
                    let x = splat(x.add(2 * BLOCK * row + 4 * step));
                    for vector in 0..2 {
                        sums[row][vector] = _mm512_dpbf16_ps(sums[row][vector], weights[vector], x);
                    }
                }
            }
            codes = codes.wrapping_add(STEP_BYTES);
        }
        x = x.wrapping_add(PANEL * 2 * BLOCK);
    }
    for row in 0..ROWS {
        for vector in 0..2 {
            // SAFETY: `out` has `ROWS` rows of a tile's columns.
            unsafe {
                let out = call.out.add(row * call.out_stride + 16 * vector);
                _mm512_storeu_ps(out, sums[row][vector]);
            }
        }
    }
}

/// # Safety
/// 64 bytes are readable from `from`.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn load(from: *const u8) -> __m512bh {
    // SAFETY: the caller's promise; both types are 64 bytes of any kind.
    unsafe { std::mem::transmute(_mm512_loadu_si512(from.cast())) }
}

/// # Safety
/// Four bytes are readable from `from`.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn splat(from: *const u8) -> __m512bh {
    // SAFETY: as for `load`.
    unsafe { std::mem::transmute(_mm512_set1_epi32(from.cast::<i32>().read_unaligned())) }
}
