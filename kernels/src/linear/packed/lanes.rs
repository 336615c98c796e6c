//! Lanes: the vector operations that the kernel is written in, one type for each instruction set.
//!
//! An `Int` vector has `BYTES` bytes, four for each of `BYTES / 4` output features; a `Float` vector one number for each.
//!
//! A new instruction set is one file beside `avx512.rs` that implements this trait, an arm of `Kernel::choose` and one of
//! `quantize_row`; the packed layout stays. With NEON `dot` is `usdot`; where that is missing, `sdot` with `ANY_BYTE` false
//! (then codes are below 128, and `dot_signed` is `sdot` on `codes − 128`). Sums are exact in 32 bits and `multiply_add` is
//! fused, so that every level gives the same bits, which `tests/linear_equalities.rs` checks.

use super::kernel::{Call, Kind, Prefetch};

pub(super) trait Lanes: Copy {
    const BYTES: usize;
    /// Rows of x that the registers have room for.
    const MOST_ROWS: usize;
    /// Whether `dot` is exact for all bytes of the first factor, not for those up to 128 only.
    const ANY_BYTE: bool;
    type Int: Copy;
    type Float: Copy;

    /// `multiply` compiled for this instruction set.
    ///
    /// # Safety
    /// The machine has it, and `call` is as it says.
    unsafe fn multiply<K: Kind, const ROWS: usize>(call: &Call, prefetch: &mut Prefetch);

    /// # Safety
    /// As for all functions below: the machine has the instruction set, and pointers reach as many bytes as are read.
    unsafe fn load(from: *const u8) -> Self::Int;
    /// Four bytes, repeated.
    unsafe fn splat(from: *const u8) -> Self::Int;
    /// 16 bytes, repeated.
    unsafe fn load_table(from: *const u8) -> Self::Int;
    unsafe fn zero() -> Self::Int;
    unsafe fn and(a: Self::Int, bytes: u8) -> Self::Int;
    unsafe fn or(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Moves each byte by `to − from` bits; bits that cross into other bytes are to be masked by the caller.
    unsafe fn shift(a: Self::Int, from: usize, to: usize) -> Self::Int;
    /// The even (`odd` = 0) or odd bytes as 16-bit numbers.
    unsafe fn widen(a: Self::Int, odd: usize) -> Self::Int;
    /// 32-bit numbers shifted right, with their sign.
    unsafe fn divide(a: Self::Int, shift: usize) -> Self::Int;
    /// Entries of a repeated table; indices are below 16.
    unsafe fn look_up(table: Self::Int, indices: Self::Int) -> Self::Int;
    /// `sum += Σ` over 4 bytes of unsigned `codes` · signed `x`.
    unsafe fn dot(sum: Self::Int, codes: Self::Int, x: Self::Int) -> Self::Int;
    /// As `dot`, of `codes − 128`; only where `ANY_BYTE` does not hold.
    unsafe fn dot_signed(sum: Self::Int, codes: Self::Int, x: Self::Int) -> Self::Int;
    /// `sum += Σ` over 2 signed 16-bit numbers of `codes · x`.
    unsafe fn dot_wide(sum: Self::Int, codes: Self::Int, x: Self::Int) -> Self::Int;
    unsafe fn to_float(a: Self::Int) -> Self::Float;
    unsafe fn load_float(from: *const f32) -> Self::Float;
    unsafe fn store_float(to: *mut f32, a: Self::Float);
    unsafe fn splat_float(from: *const f32) -> Self::Float;
    unsafe fn multiply_float(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a·b + c` in one rounding.
    unsafe fn multiply_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
}
