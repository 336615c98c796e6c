//! Rows of x as integers: what the packed weights are multiplied with.
//!
//! Each block of 32 elements has a float32 scale of its own, max |x| / L with L = 127 or 32512, and integers
//! round(x · L / max |x|), ties to even. A row's integers depend on the row alone. Rows lie in panels of `PANEL`, block by
//! block, so that a call of the kernel reads one stream.

use super::BLOCK;
use super::halves::round_row;
use super::quantize::{Target, quantize_row};
use crate::cpu::SimdLevel;

/// Rows that lie together.
pub(super) const PANEL: usize = 8;

/// How exactly `x` is rounded before it meets packed weights: the flag `--activations`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActivationPrecision {
    /// 8 bits: the fastest.
    #[default]
    Int8,
    /// 16 bits (15 and a sign): close to float32, at half the speed for many rows.
    Int16,
    /// BF16: for weights that are floats in tiles, whatever was chosen for integers.
    Bfloat16,
}

impl ActivationPrecision {
    pub(super) const ALL: [Self; 3] = [Self::Int8, Self::Int16, Self::Bfloat16];

    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Int8 => 1,
            Self::Int16 | Self::Bfloat16 => 2,
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

    pub(super) fn has(self, extra: Extra) -> bool {
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
    /// Those after so many panels.
    pub(super) fn after_panels(&self, panel: usize) -> Activations<'_> {
        Activations {
            codes: self.codes(panel).cast_mut(),
            params: self.params(panel).cast_mut(),
            life: std::marker::PhantomData,
            ..*self
        }
    }

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
            if self.precision == ActivationPrecision::Bfloat16 {
                round_row(x, codes, row);
            } else {
                let wide = self.precision == ActivationPrecision::Int16;
                quantize_row(simd, x, Target { codes, params, row, extras: self.extras, wide });
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
