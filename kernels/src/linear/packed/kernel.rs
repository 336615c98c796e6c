//! The inner loop of packed weights: some rows of x times the features of two vectors, all sums in registers.
//!
//! An output is, for each block of `BLOCK` in ascending order, `sum = fma(minimum, scale_x · Σ x, sum)` where the format
//! has minima, and `sum = fma(float(Σ code · x), scale · scale_x, sum)`; formats with a scale for 16 weights do so for
//! each half of a block. The integer sums are exact. Nothing else enters, so the bits depend neither on how many rows are
//! computed together nor on the instruction set.

use std::marker::PhantomData;
use std::ops::Range;

use super::activations::{ActivationPrecision, Extra, PANEL};
use super::lanes::Lanes;
use super::packing::{Codes, PLANE_BYTES, Packing, shift_of};
use super::portable::Portable;
use super::{BLOCK, TILE, halves};
use crate::cpu::{SimdLevel, prefetch_line};

/// Vectors of features that are computed together.
const VECTORS: usize = 2;

/// One call: a tile (or as many of its features as two vectors hold) and some rows of one panel.
pub(super) struct Call {
    /// Codes of the first feature in the first pair of blocks.
    pub codes: *const u8,
    /// Scale of the first feature in the first block.
    pub scales: *const f32,
    /// Table of the format's codes, 16 bytes.
    pub table: *const u8,
    pub num_pairs: usize,
    /// Integers of the first row in the first block.
    pub x: *const u8,
    /// Scale of the first row in the first block.
    pub params: *const u32,
    /// Words from a block's params to the next block's.
    pub params_stride: usize,
    /// Words from a scale to the `Extra` that the kernel needs.
    pub extra: usize,
    /// Sums of the first row; overwritten.
    pub out: *mut f32,
    pub out_stride: usize,
}

/// Asks for weights ahead of their use, a few cache lines for each pair of blocks, so that memory and the dot product
/// units work at the same time.
pub(super) struct Prefetch {
    pub next: *const u8,
    pub end: *const u8,
    /// Where to go on at the end.
    pub then: Range<*const u8>,
    pub lines_left: usize,
    /// In one `advance`.
    pub lines_at_once: usize,
}

impl Prefetch {
    #[inline(always)]
    pub fn advance(&mut self) {
        let num_lines = self.lines_at_once.min(self.lines_left);
        self.lines_left -= num_lines;
        for _ in 0..num_lines {
            if self.next >= self.end {
                (self.next, self.end) = (self.then.start, self.then.end);
                self.then.start = self.then.end;
            }
            prefetch_line(self.next);
            self.next = self.next.wrapping_add(64);
        }
    }
}

/// The kernels of one instruction set, precision and packing.
pub(super) struct Kernel {
    /// For 1, 2, 4 and 8 rows, up to `most_rows`.
    pub multiply: [Multiply; 4],
    pub most_rows: usize,
    /// Output features of a call.
    pub num_features: usize,
    pub extra: Option<Extra>,
    /// Second blocks of a pair are used where they lie, so their scales must be divided by 16.
    pub high_halves: bool,
    /// How often it asks for weights in a pair of blocks.
    pub prefetches: usize,
}

pub(super) type Multiply = unsafe fn(&Call, &mut Prefetch);

impl Kernel {
    pub fn choose(simd: SimdLevel, packing: Packing, precision: ActivationPrecision) -> Self {
        if precision == ActivationPrecision::Bfloat16 {
            return halves::kernel();
        }
        match simd {
            SimdLevel::Portable => Self::of_level::<Portable>(packing, precision),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 => Self::of_level::<super::avx2::Avx2<false>>(packing, precision),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::AvxVnni => Self::of_level::<super::avx2::Avx2<true>>(packing, precision),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 | SimdLevel::Avx512Bf16 => {
                Self::of_level::<super::avx512::Avx512>(packing, precision)
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("an x86 instruction set"),
        }
    }

    fn of_level<L: Lanes>(packing: Packing, precision: ActivationPrecision) -> Self {
        match precision {
            ActivationPrecision::Int8 => Self::of_packing::<L, false>(packing),
            _ => Self::of_packing::<L, true>(packing),
        }
    }

    /// A combination of codes and scales that no format had before is one more line here.
    fn of_packing<L: Lanes, const WIDE: bool>(packing: Packing) -> Self {
        let (groups, minimum) = (packing.scales.groups_per_block(), packing.scales.has_minimum());
        match (packing.codes, groups, minimum) {
            (Codes::Two, 1, false) => Self::of_kind::<L, KindOf<Two, WIDE, 1, false>>(),
            (Codes::Two, 2, true) => Self::of_kind::<L, KindOf<Two, WIDE, 2, true>>(),
            (Codes::Three, 2, false) => Self::of_kind::<L, KindOf<Three, WIDE, 2, false>>(),
            (Codes::TableOfEight(_), 1, false) => {
                Self::of_kind::<L, KindOf<TableOfEight, WIDE, 1, false>>()
            }
            (Codes::TableOfEight(_), 2, false) => {
                Self::of_kind::<L, KindOf<TableOfEight, WIDE, 2, false>>()
            }
            (Codes::Four, 1, true) => Self::of_kind::<L, KindOf<Four, WIDE, 1, true>>(),
            (Codes::Four, 1, false) => Self::of_kind::<L, KindOf<Four, WIDE, 1, false>>(),
            (Codes::Table(_), 1, false) => Self::of_kind::<L, KindOf<Table, WIDE, 1, false>>(),
            (Codes::Table(_), 2, false) => Self::of_kind::<L, KindOf<Table, WIDE, 2, false>>(),
            (Codes::Five, 1, true) => Self::of_kind::<L, KindOf<Five, WIDE, 1, true>>(),
            (Codes::Five, 1, false) => Self::of_kind::<L, KindOf<Five, WIDE, 1, false>>(),
            (Codes::Six, 2, false) => Self::of_kind::<L, KindOf<Six, WIDE, 2, false>>(),
            (Codes::Eight, 1, false) => Self::of_kind::<L, KindOf<Eight, WIDE, 1, false>>(),
            _ => unreachable!("no format has {packing:?}"),
        }
    }

    fn of_kind<L: Lanes, K: Kind>() -> Self {
        let one: Multiply = L::multiply::<K, 1>;
        let mut multiply = [one; 4];
        if L::MOST_ROWS >= 4 {
            (multiply[1], multiply[2]) = (L::multiply::<K, 2>, L::multiply::<K, 4>);
        }
        Self {
            multiply,
            most_rows: L::MOST_ROWS,
            num_features: VECTORS * L::BYTES / 4,
            extra: Some(match (K::GROUPS, K::MINIMUM) {
                (1, true) => Extra::Sum,
                (1, false) => Extra::Bias,
                (_, true) => Extra::HalfSums,
                (_, false) => Extra::HalfBiases,
            }),
            high_halves: uses_high_halves::<L, K>(),
            prefetches: 1,
        }
    }

    /// Rows of the next call when `rows` of a panel are left.
    pub fn rows_of_next_call(&self, rows: usize) -> usize {
        let rows = rows.min(self.most_rows);
        1 << rows.ilog2()
    }

    /// # Safety
    /// `call` is as it says for `num_rows` rows (a power of two up to `most_rows`), of this kernel's packing and
    /// precision, and the machine has its instruction set.
    pub unsafe fn run(&self, num_rows: usize, call: &Call, prefetch: &mut Prefetch) {
        debug_assert!(num_rows.is_power_of_two() && num_rows <= self.most_rows);
        // SAFETY: the caller's promise.
        unsafe { self.multiply[num_rows.ilog2() as usize](call, prefetch) }
    }
}

/// What distinguishes the kernels of one instruction set.
pub(super) trait Kind {
    type Codes: Unpack;
    /// x has 16 bits.
    const WIDE: bool;
    /// Scales of a block.
    const GROUPS: usize;
    const MINIMUM: bool;
}

struct KindOf<C, const WIDE: bool, const GROUPS: usize, const MINIMUM: bool>(PhantomData<C>);

impl<C: Unpack, const W: bool, const G: usize, const M: bool> Kind for KindOf<C, W, G, M> {
    type Codes = C;
    const WIDE: bool = W;
    const GROUPS: usize = G;
    const MINIMUM: bool = M;
}

/// Makes bytes of the planes of a pair.
pub(super) trait Unpack {
    const CODES: Codes;
    /// The second block's codes can be used 16 times too large, which saves a shift.
    const HIGH_HALVES: bool = false;

    /// # Safety
    /// `pair` points to the codes of the first of a vector's features; the machine has the instruction set.
    unsafe fn codes<L: Lanes>(
        pair: *const u8,
        table: L::Int,
        block: usize,
        step: usize,
        high_halves: bool,
    ) -> L::Int;
}

/// The bits of a plane for one step, moved to bit `to` of their bytes.
///
/// # Safety
/// As for `Unpack::codes`.
#[inline(always)]
unsafe fn plane<L: Lanes, const BITS: usize>(
    plane: *const u8,
    block: usize,
    step: usize,
    to: usize,
) -> L::Int {
    // SAFETY: the vector lies in the plane.
    unsafe {
        let vector = L::load(plane.add(step / (4 / BITS) * 4 * TILE));
        let from = shift_of(BITS, block, step);
        let moved = if from == to { vector } else { L::shift(vector, from, to) };
        L::and(moved, ((1 << BITS) - 1) << to)
    }
}

macro_rules! unpack {
    ($name:ident, $codes:expr, |$pair:ident, $table:ident, $block:ident, $step:ident| $body:expr) => {
        pub(super) struct $name;

        impl Unpack for $name {
            const CODES: Codes = $codes;

            #[inline(always)]
            unsafe fn codes<L: Lanes>(
                $pair: *const u8,
                $table: L::Int,
                $block: usize,
                $step: usize,
                _high_halves: bool,
            ) -> L::Int {
                let _ = $table;
                // SAFETY: the planes of a pair lie one after the other.
                unsafe { $body }
            }
        }
    };
}

unpack!(Two, Codes::Two, |pair, table, block, step| plane::<L, 2>(pair, block, step, 0));
unpack!(Three, Codes::Three, |pair, table, block, step| L::or(
    plane::<L, 2>(pair, block, step, 0),
    plane::<L, 1>(pair.add(2 * PLANE_BYTES), block, step, 2)
));
unpack!(TableOfEight, Codes::TableOfEight(&[0; 16]), |pair, table, block, step| L::look_up(
    table,
    L::or(
        plane::<L, 2>(pair, block, step, 0),
        plane::<L, 1>(pair.add(2 * PLANE_BYTES), block, step, 2)
    )
));
unpack!(Table, Codes::Table(&[0; 16]), |pair, table, block, step| L::look_up(
    table,
    plane::<L, 4>(pair, block, step, 0)
));
unpack!(Five, Codes::Five, |pair, table, block, step| L::or(
    plane::<L, 4>(pair, block, step, 0),
    plane::<L, 1>(pair.add(4 * PLANE_BYTES), block, step, 4)
));
unpack!(Six, Codes::Six, |pair, table, block, step| L::or(
    plane::<L, 4>(pair, block, step, 0),
    plane::<L, 2>(pair.add(4 * PLANE_BYTES), block, step, 4)
));
unpack!(Eight, Codes::Eight, |pair, table, block, step| L::load(
    pair.add((8 * block + step) * 4 * TILE)
));

pub(super) struct Four;

impl Unpack for Four {
    const CODES: Codes = Codes::Four;
    const HIGH_HALVES: bool = true;

    #[inline(always)]
    unsafe fn codes<L: Lanes>(
        pair: *const u8,
        _table: L::Int,
        block: usize,
        step: usize,
        high_halves: bool,
    ) -> L::Int {
        // SAFETY: as for the plane.
        unsafe { plane::<L, 4>(pair, block, step, if high_halves { 4 * block } else { 0 }) }
    }
}

const fn uses_high_halves<L: Lanes, K: Kind>() -> bool {
    K::Codes::HIGH_HALVES && (L::ANY_BYTE || K::WIDE)
}

/// Whether codes become signed numbers before they are multiplied.
const fn is_signed<L: Lanes, K: Kind>() -> bool {
    !L::ANY_BYTE && !K::WIDE && !K::MINIMUM && K::Codes::CODES.offset() == 128
}

/// # Safety
/// `call` is as it says for `ROWS` rows, and the machine has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn multiply<L: Lanes, K: Kind, const ROWS: usize>(
    call: &Call,
    prefetch: &mut Prefetch,
) {
    // SAFETY: the caller's promise; pointers end at the last pair's end.
    unsafe {
        let table = L::load_table(call.table);
        let mut sums = [[L::to_float(L::zero()); VECTORS]; ROWS];
        let x_bytes = PANEL * BLOCK * if K::WIDE { 2 } else { 1 };
        let num_scales = K::GROUPS * if K::MINIMUM { 2 } else { 1 } * TILE;
        let mut at =
            Block { pair: call.codes, table, scales: call.scales, x: call.x, params: call.params };
        for _ in 0..call.num_pairs {
            prefetch.advance();
            multiply_block::<L, K, ROWS>(&at, 0, call.extra, &mut sums);
            at.scales = at.scales.add(num_scales);
            at.x = at.x.add(x_bytes);
            at.params = at.params.add(call.params_stride);
            at.pair = as_if_new(at.pair);
            multiply_block::<L, K, ROWS>(&at, 1, call.extra, &mut sums);
            at.scales = at.scales.add(num_scales);
            at.x = at.x.add(x_bytes);
            at.params = at.params.add(call.params_stride);
            at.pair = at.pair.add(K::Codes::CODES.pair_bytes());
        }
        for row in 0..ROWS {
            for vector in 0..VECTORS {
                let out = call.out.add(row * call.out_stride + vector * L::BYTES / 4);
                L::store_float(out, sums[row][vector]);
            }
        }
    }
}

/// Keeps the compiler from saving the codes of a pair's first block on the stack for the second: reading them again is
/// cheaper.
#[inline(always)]
fn as_if_new(codes: *const u8) -> *const u8 {
    #[cfg(target_arch = "x86_64")]
    {
        let mut address = codes.addr();
        // SAFETY: no instruction is emitted.
        unsafe {
            std::arch::asm!(
                "/* {address} */",
                address = inout(reg) address,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        codes.with_addr(address)
    }
    #[cfg(not(target_arch = "x86_64"))]
    codes
}

/// Where a block's numbers lie.
struct Block<L: Lanes> {
    pair: *const u8,
    table: L::Int,
    scales: *const f32,
    x: *const u8,
    params: *const u32,
}

type Sums<V, const ROWS: usize> = [[V; VECTORS]; ROWS];

/// # Safety
/// As for `multiply`.
#[inline(always)]
unsafe fn multiply_block<L: Lanes, K: Kind, const ROWS: usize>(
    at: &Block<L>,
    block: usize,
    extra: usize,
    sums: &mut Sums<L::Float, ROWS>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        // Steps are written out: shifts must be constants.
        let mut dots = start::<L, K, ROWS>(at, block, 0, extra);
        add_step::<L, K, ROWS>(at, block, 0, &mut dots);
        add_step::<L, K, ROWS>(at, block, 1, &mut dots);
        add_step::<L, K, ROWS>(at, block, 2, &mut dots);
        add_step::<L, K, ROWS>(at, block, 3, &mut dots);
        if K::GROUPS == 2 {
            finish::<L, K, ROWS>(at, 0, extra, &dots, sums);
            dots = start::<L, K, ROWS>(at, block, 1, extra);
        }
        add_step::<L, K, ROWS>(at, block, 4, &mut dots);
        add_step::<L, K, ROWS>(at, block, 5, &mut dots);
        add_step::<L, K, ROWS>(at, block, 6, &mut dots);
        add_step::<L, K, ROWS>(at, block, 7, &mut dots);
        finish::<L, K, ROWS>(at, K::GROUPS - 1, extra, &dots, sums);
    }
}

/// What the integer sums of a group start from: −offset · Σ x, so that an offset costs nothing.
///
/// # Safety
/// As for `multiply`.
#[inline(always)]
unsafe fn start<L: Lanes, K: Kind, const ROWS: usize>(
    at: &Block<L>,
    block: usize,
    group: usize,
    extra: usize,
) -> Sums<L::Int, ROWS> {
    // SAFETY: the caller's promise.
    unsafe {
        let mut dots = [[L::zero(); VECTORS]; ROWS];
        if !K::MINIMUM && !is_signed::<L, K>() {
            let times = if uses_high_halves::<L, K>() && block == 1 { 16 } else { 1 };
            // The bias is −128 · Σ x.
            let shift = (128 / (K::Codes::CODES.offset() as usize * times)).ilog2() as usize;
            for row in 0..ROWS {
                let bias = L::splat(at.params.add(extra + group * PANEL + row).cast());
                let bias = if shift == 0 { bias } else { L::divide(bias, shift) };
                dots[row] = [bias; VECTORS];
            }
        }
        dots
    }
}

/// Four weights of each feature.
///
/// # Safety
/// As for `multiply`.
#[inline(always)]
unsafe fn add_step<L: Lanes, K: Kind, const ROWS: usize>(
    at: &Block<L>,
    block: usize,
    step: usize,
    dots: &mut Sums<L::Int, ROWS>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let high_halves = uses_high_halves::<L, K>();
        // No closures here: they would be compiled for the plain machine and called.
        let mut codes = [L::zero(); VECTORS];
        for vector in 0..VECTORS {
            let pair = at.pair.add(vector * L::BYTES);
            codes[vector] = K::Codes::codes::<L>(pair, at.table, block, step, high_halves);
        }
        if K::WIDE {
            for odd in 0..2 {
                let codes = [L::widen(codes[0], odd), L::widen(codes[1], odd)];
                for row in 0..ROWS {
                    let x = L::splat(at.x.add(2 * (row * BLOCK + 4 * step) + 4 * odd));
                    for vector in 0..VECTORS {
                        dots[row][vector] = L::dot_wide(dots[row][vector], codes[vector], x);
                    }
                }
            }
        } else {
            for row in 0..ROWS {
                let x = L::splat(at.x.add(row * BLOCK + 4 * step));
                for vector in 0..VECTORS {
                    let dot = dots[row][vector];
                    dots[row][vector] = if is_signed::<L, K>() {
                        L::dot_signed(dot, codes[vector], x)
                    } else {
                        L::dot(dot, codes[vector], x)
                    };
                }
            }
        }
    }
}

/// # Safety
/// As for `multiply`.
#[inline(always)]
unsafe fn finish<L: Lanes, K: Kind, const ROWS: usize>(
    at: &Block<L>,
    group: usize,
    extra: usize,
    dots: &Sums<L::Int, ROWS>,
    sums: &mut Sums<L::Float, ROWS>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let per_group = if K::MINIMUM { 2 * TILE } else { TILE };
        let scales = load::<L>(at.scales.add(group * per_group));
        for row in 0..ROWS {
            let scale_x = L::splat_float(at.params.add(row).cast());
            if K::MINIMUM {
                let minima = load::<L>(at.scales.add(group * per_group + TILE));
                let sum_x = L::splat_float(at.params.add(extra + group * PANEL + row).cast());
                for vector in 0..VECTORS {
                    sums[row][vector] = L::multiply_add(minima[vector], sum_x, sums[row][vector]);
                }
            }
            for vector in 0..VECTORS {
                let scale = L::multiply_float(scales[vector], scale_x);
                let dot = L::to_float(dots[row][vector]);
                sums[row][vector] = L::multiply_add(dot, scale, sums[row][vector]);
            }
        }
    }
}

/// # Safety
/// As for `multiply`.
#[inline(always)]
unsafe fn load<L: Lanes>(at: *const f32) -> [L::Float; VECTORS] {
    // SAFETY: the caller's promise.
    unsafe { [L::load_float(at), L::load_float(at.add(L::BYTES / 4))] }
}
