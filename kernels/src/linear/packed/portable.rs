//! Lanes in plain Rust. Multiply-adds are fused, so that every machine gives the same bits.

use super::kernel::{Call, Kind, Prefetch, multiply};
use super::lanes::Lanes;

#[derive(Clone, Copy)]
pub(super) struct Portable;

const LANES: usize = 8;
type Words = [u32; LANES];

/// Adds the products of the fields of `8·BYTES` bits of each word. In lanes of 32 bits, field by field: so the compiler
/// uses what vectors there are.
#[inline(always)]
fn add_products<const BYTES: u32, const SIGNED: bool>(sums: &mut Words, codes: Words, x: Words) {
    let unused = 32 - 8 * BYTES;
    for field in 0..4 / BYTES {
        let up = unused - 8 * BYTES * field;
        for i in 0..LANES {
            let code = match SIGNED {
                true => ((codes[i] << up).cast_signed() >> unused).cast_unsigned(),
                false => codes[i] << up >> unused,
            };
            let x = ((x[i] << up).cast_signed() >> unused).cast_unsigned();
            sums[i] = sums[i].wrapping_add(code.wrapping_mul(x));
        }
    }
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
    unsafe fn dot(mut sum: Words, codes: Words, x: Words) -> Words {
        add_products::<1, false>(&mut sum, codes, x);
        sum
    }

    #[inline(always)]
    unsafe fn dot_signed(_sum: Words, _codes: Words, _x: Words) -> Words {
        unreachable!("dot takes any byte")
    }

    #[inline(always)]
    unsafe fn dot_wide(mut sum: Words, codes: Words, x: Words) -> Words {
        add_products::<2, true>(&mut sum, codes, x);
        sum
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
