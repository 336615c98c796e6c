//! Lanes in plain Rust. Multiply-adds are fused, so that every machine gives the same bits.

use super::kernel::{Call, Kind, Prefetch, multiply};
use super::lanes::Lanes;

#[derive(Clone, Copy)]
pub(super) struct Portable;

const LANES: usize = 8;
type Words = [u32; LANES];

#[inline(always)]
fn sum_of_products<T, const N: usize>(
    sums: Words,
    codes: Words,
    x: Words,
    split: impl Fn(u32) -> [T; N],
    split_x: impl Fn(u32) -> [T; N],
) -> Words
where
    T: Copy + Into<i32>,
{
    std::array::from_fn(|i| {
        let (codes, x) = (split(codes[i]), split_x(x[i]));
        let products = codes.into_iter().zip(x).map(|(code, x)| code.into() * x.into());
        sums[i].wrapping_add(products.sum::<i32>().cast_unsigned())
    })
}

#[inline(always)]
fn signed_bytes(word: u32) -> [i16; 4] {
    word.to_le_bytes().map(|byte| i16::from(byte.cast_signed()))
}

#[inline(always)]
fn signed_halves(word: u32) -> [i32; 2] {
    [i32::from(word as i16), i32::from((word >> 16) as i16)]
}

// SAFETY (for every block): pointers reach as far as the trait demands.
impl Lanes for Portable {
    const BYTES: usize = 4 * LANES;
    const MOST_ROWS: usize = 1;
    const ANY_BYTE: bool = true;
    type Int = Words;
    type Float = [f32; LANES];

    unsafe fn multiply<K: Kind, const ROWS: usize>(call: &Call, prefetch: &mut Prefetch) {
        // SAFETY: the caller's promise.
        unsafe { multiply::<Self, K, ROWS>(call, prefetch) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Words {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Words>().read_unaligned() }.map(u32::from_le)
    }

    #[inline(always)]
    unsafe fn splat(from: *const u8) -> Words {
        // SAFETY: the caller's promise.
        [u32::from_le(unsafe { from.cast::<u32>().read_unaligned() }); LANES]
    }

    #[inline(always)]
    unsafe fn load_table(from: *const u8) -> Words {
        // SAFETY: the caller's promise.
        let words = unsafe { from.cast::<[u32; 4]>().read_unaligned() }.map(u32::from_le);
        std::array::from_fn(|i| words[i % 4])
    }

    #[inline(always)]
    unsafe fn zero() -> Words {
        [0; LANES]
    }

    #[inline(always)]
    unsafe fn and(a: Words, bytes: u8) -> Words {
        a.map(|word| word & u32::from_le_bytes([bytes; 4]))
    }

    #[inline(always)]
    unsafe fn or(a: Words, b: Words) -> Words {
        std::array::from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    unsafe fn shift(a: Words, from: usize, to: usize) -> Words {
        a.map(|word| if from > to { word >> (from - to) } else { word << (to - from) })
    }

    #[inline(always)]
    unsafe fn widen(a: Words, odd: usize) -> Words {
        a.map(|word| word >> (8 * odd) & 0x00FF_00FF)
    }

    #[inline(always)]
    unsafe fn divide(a: Words, shift: usize) -> Words {
        a.map(|word| (word.cast_signed() >> shift).cast_unsigned())
    }

    #[inline(always)]
    unsafe fn look_up(table: Words, indices: Words) -> Words {
        let entry = |index: u8| (table[usize::from(index / 4)] >> (8 * (index % 4))) as u8;
        indices.map(|word| u32::from_le_bytes(word.to_le_bytes().map(entry)))
    }

    #[inline(always)]
    unsafe fn dot(sum: Words, codes: Words, x: Words) -> Words {
        sum_of_products(sum, codes, x, |word| word.to_le_bytes().map(i16::from), signed_bytes)
    }

    #[inline(always)]
    unsafe fn dot_signed(sum: Words, codes: Words, x: Words) -> Words {
        let signed = |word: u32| signed_bytes(word ^ 0x8080_8080);
        sum_of_products(sum, codes, x, signed, signed_bytes)
    }

    #[inline(always)]
    unsafe fn dot_wide(sum: Words, codes: Words, x: Words) -> Words {
        sum_of_products(sum, codes, x, signed_halves, signed_halves)
    }

    #[inline(always)]
    unsafe fn to_float(a: Words) -> [f32; LANES] {
        a.map(|word| word.cast_signed() as f32)
    }

    #[inline(always)]
    unsafe fn load_float(from: *const f32) -> [f32; LANES] {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[f32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_float(to: *mut f32, a: [f32; LANES]) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(a) }
    }

    #[inline(always)]
    unsafe fn splat_float(from: *const f32) -> [f32; LANES] {
        // SAFETY: the caller's promise.
        [unsafe { from.read_unaligned() }; LANES]
    }

    #[inline(always)]
    unsafe fn multiply_float(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn multiply_add(a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
}
