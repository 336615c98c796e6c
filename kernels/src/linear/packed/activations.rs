//! Rows of x as integers: what the packed weights are multiplied with.
//!
//! Each block of 32 elements has a float32 scale of its own, max |x| / L with L = 127 or 32512, and integers
//! round(x · L / max |x|), ties to even. A row's integers depend on the row alone. Rows lie in panels of `PANEL`, block by
//! block, so that a call of the kernel reads one stream.

use super::BLOCK;
use crate::cpu::SimdLevel;
use crate::cpu::math::{TO_INTEGER, per_simd_level};

/// Rows that lie together.
pub(super) const PANEL: usize = 8;

/// Blocks whose numbers are all smaller count as zero, so that no product below gets subnormal.
const SMALLEST: f32 = 1e-30;

/// How exactly `x` is rounded before it meets packed weights: the flag `--activations`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActivationPrecision {
    /// 8 bits: the fastest.
    #[default]
    Int8,
    /// 16 bits (15 and a sign): close to float32, at half the speed for many rows.
    Int16,
}

impl ActivationPrecision {
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Int8 => 1,
            Self::Int16 => 2,
        }
    }
}

/// What a kernel needs of a block beside integers and scale, to undo the offset of the codes or to add the minima.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extra {
    /// F32: scale · Σ integers.
    Sum,
    /// I32: −128 · Σ integers.
    Bias,
    /// The same of each half of the block.
    HalfSums,
    HalfBiases,
}

/// The set of extras that a weight's parts need. In memory: the scales of a panel's rows, then each extra of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extras(u8);

impl Extras {
    const ORDER: [(Extra, usize); 4] = [
        (Extra::Sum, PANEL),
        (Extra::Bias, PANEL),
        (Extra::HalfSums, 2 * PANEL),
        (Extra::HalfBiases, 2 * PANEL),
    ];

    pub(super) fn with(self, extra: Extra) -> Self {
        Self(self.0 | 1 << extra as u8)
    }

    fn has(self, extra: Extra) -> bool {
        self.0 & 1 << extra as u8 != 0
    }

    /// Words from a block's first scale to this extra of the same row.
    pub(super) fn offset(self, extra: Extra) -> usize {
        let before = Self::ORDER.iter().take_while(|&&(other, _)| other != extra);
        PANEL
            + before.filter(|&&(other, _)| self.has(other)).map(|&(_, words)| words).sum::<usize>()
    }

    /// Words of a block of a panel.
    pub(super) fn stride(self) -> usize {
        let used = Self::ORDER.iter().filter(|&&(extra, _)| self.has(extra));
        PANEL + used.map(|&(_, words)| words).sum::<usize>()
    }
}

/// A cache line of the buffer.
#[derive(Clone, Copy)]
#[repr(align(64))]
#[expect(dead_code, reason = "read through pointers")]
struct Line([u8; 64]);

/// Memory for the rows of one op, kept from op to op.
#[derive(Default)]
pub(super) struct ActivationBuffer {
    lines: Vec<Line>,
}

/// Quantized rows of one op. Panels are filled by `quantize_panel` before they are read.
pub(super) struct Activations<'a> {
    pub(super) precision: ActivationPrecision,
    pub(super) extras: Extras,
    /// Pairs of blocks in a row; the last may be half empty.
    pub(super) num_pairs: usize,
    codes: *mut u8,
    params: *mut u32,
    life: std::marker::PhantomData<&'a mut ActivationBuffer>,
}

// SAFETY: panels are written by one thread each, and read when all are written.
unsafe impl Sync for Activations<'_> {}

impl ActivationBuffer {
    /// Room for `num_rows` of `in_features`; grows only when an op is larger than all before it.
    pub(super) fn prepare(
        &mut self,
        num_rows: usize,
        in_features: usize,
        precision: ActivationPrecision,
        extras: Extras,
    ) -> Activations<'_> {
        let num_panels = num_rows.div_ceil(PANEL);
        let num_pairs = in_features.div_ceil(2 * BLOCK);
        let num_blocks = num_panels * 2 * num_pairs;
        let code_lines = (num_blocks * PANEL * BLOCK * precision.bytes()).div_ceil(64);
        let param_lines = (num_blocks * extras.stride() * 4).div_ceil(64);
        if self.lines.len() < code_lines + param_lines {
            self.lines.resize(code_lines + param_lines, Line([0; 64]));
        }
        let codes = self.lines.as_mut_ptr().cast::<u8>();
        let params = codes.wrapping_add(64 * code_lines).cast();
        Activations { precision, extras, num_pairs, codes, params, life: std::marker::PhantomData }
    }
}

impl Activations<'_> {
    /// Integers of the first row of a panel.
    pub(super) fn codes(&self, panel: usize) -> *const u8 {
        self.codes.wrapping_add(panel * self.panel_bytes())
    }

    /// Scale of the first row of a panel, in its first block.
    pub(super) fn params(&self, panel: usize) -> *const u32 {
        self.params.wrapping_add(panel * self.panel_words())
    }

    /// # Safety
    /// No other thread may use this panel at the same time.
    pub(super) unsafe fn quantize_panel<'x>(
        &self,
        simd: SimdLevel,
        panel: usize,
        rows: impl Iterator<Item = &'x [f32]>,
    ) {
        // SAFETY: `prepare` made room for this panel, and it is this caller's alone.
        let (codes, params) = unsafe {
            (
                std::slice::from_raw_parts_mut(self.codes(panel).cast_mut(), self.panel_bytes()),
                std::slice::from_raw_parts_mut(self.params(panel).cast_mut(), self.panel_words()),
            )
        };
        for (row, x) in rows.enumerate() {
            let target = Target { codes, params, row, extras: self.extras };
            match self.precision {
                ActivationPrecision::Int8 => quantize_int8(simd, x, target),
                ActivationPrecision::Int16 => quantize_int16(simd, x, target),
            }
        }
    }

    fn panel_bytes(&self) -> usize {
        2 * self.num_pairs * PANEL * BLOCK * self.precision.bytes()
    }

    fn panel_words(&self) -> usize {
        2 * self.num_pairs * self.extras.stride()
    }
}

/// A row of a panel to fill.
struct Target<'a> {
    codes: &'a mut [u8],
    params: &'a mut [u32],
    row: usize,
    extras: Extras,
}

per_simd_level! {
    fn quantize_int8(x: &[f32], target: Target<'_>) = quantize_int8_body
}

per_simd_level! {
    fn quantize_int16(x: &[f32], target: Target<'_>) = quantize_int16_body
}

#[inline(always)]
fn quantize_int8_body<const FMA: bool>(x: &[f32], target: Target<'_>) {
    let codes = target.codes.as_chunks_mut::<BLOCK>().0;
    let (row, stride) = (target.row, target.extras.stride());
    let params = target.params.chunks_exact_mut(stride);
    let blocks = codes.chunks_exact_mut(PANEL).map(|block| &mut block[row]).zip(params);
    for (index, (codes, params)) in blocks.enumerate() {
        let block = block(x, index);
        let (scale, integers) = quantize_block::<127>(block);
        for i in 0..BLOCK {
            codes[i] = integers[i] as u8;
        }
        store_params(params, row, target.extras, scale, &integers);
    }
}

/// Of four integers the first and third come first: the even and the odd bytes of the weights are separate operands.
#[inline(always)]
fn quantize_int16_body<const FMA: bool>(x: &[f32], target: Target<'_>) {
    let codes = target.codes.as_chunks_mut::<{ 2 * BLOCK }>().0;
    let (row, stride) = (target.row, target.extras.stride());
    let params = target.params.chunks_exact_mut(stride);
    let blocks = codes.chunks_exact_mut(PANEL).map(|block| &mut block[row]).zip(params);
    for (index, (codes, params)) in blocks.enumerate() {
        let block = block(x, index);
        let (scale, integers) = quantize_block::<32512>(block);
        for (codes, four) in codes.chunks_exact_mut(8).zip(integers.chunks_exact(4)) {
            for (code, index) in codes.chunks_exact_mut(2).zip([0, 2, 1, 3]) {
                code.copy_from_slice(&(four[index] as i16).to_le_bytes());
            }
        }
        store_params(params, row, target.extras, scale, &integers);
    }
}

/// A block that pads the last pair is zero.
#[inline(always)]
fn block(x: &[f32], index: usize) -> &[f32; BLOCK] {
    x.as_chunks().0.get(index).unwrap_or(&[0.0; BLOCK])
}

/// Scale and integers in −LARGEST..=LARGEST. A number that is not finite makes the scale not finite.
#[inline(always)]
fn quantize_block<const LARGEST: u32>(x: &[f32; BLOCK]) -> (f32, [i32; BLOCK]) {
    // Magnitudes compare as their bits do, a NaN above all.
    let mut magnitudes = [0; BLOCK];
    for i in 0..BLOCK {
        magnitudes[i] = x[i].to_bits() & 0x7FFF_FFFF;
    }
    for half in [16, 8, 4, 2, 1] {
        for i in 0..half {
            magnitudes[i] = magnitudes[i].max(magnitudes[i + half]);
        }
    }
    let largest = f32::from_bits(magnitudes[0]);
    let steps = LARGEST as f32;
    let (scale, inverse) =
        if largest < SMALLEST { (0.0, 0.0) } else { (largest / steps, steps / largest) };
    let mut integers = [0; BLOCK];
    for i in 0..BLOCK {
        let shifted = (x[i] * inverse + TO_INTEGER).to_bits();
        let integer = shifted.cast_signed().wrapping_sub(TO_INTEGER.to_bits().cast_signed());
        // What came of a NaN stays small too.
        integers[i] = i32::from(integer as i16);
    }
    (scale, integers)
}

#[inline(always)]
fn store_params(
    params: &mut [u32],
    row: usize,
    extras: Extras,
    scale: f32,
    integers: &[i32; BLOCK],
) {
    let (first, second) = integers.split_at(BLOCK / 2);
    let sums = [sum(first), sum(second)];
    let total = sums[0] + sums[1];
    params[row] = scale.to_bits();
    let float = |sum: i32| (scale * sum as f32).to_bits();
    let bias = |sum: i32| (-128 * sum).cast_unsigned();
    let mut put = |extra, half: usize, value| {
        if extras.has(extra) {
            params[extras.offset(extra) + half * PANEL + row] = value;
        }
    };
    put(Extra::Sum, 0, float(total));
    put(Extra::Bias, 0, bias(total));
    for half in 0..2 {
        put(Extra::HalfSums, half, float(sums[half]));
        put(Extra::HalfBiases, half, bias(sums[half]));
    }
}

#[inline(always)]
fn sum(integers: &[i32]) -> i32 {
    integers.iter().sum()
}
