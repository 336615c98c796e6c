//! What a matrix product reads: rows as they are, or rows that a norm or a gate makes on the way.

use crate::cpu::SimdLevel;
use crate::device::Device;
use crate::gated_mul::{Gated, gated_mul};
use crate::rms_norm::{AddNorm, add_rms_norm};
use crate::tensor::View;

/// The rows of `x` in `x · weightᵀ`.
pub enum Input<'a> {
    Rows(View<'a>),
    /// Those that `add_rms_norm` makes: `AddNorm::out`. One pass makes and rounds them.
    Normed(AddNorm<'a>),
    /// Those that `gated_mul` makes: `Gated::out`.
    Gated(Gated<'a>),
}

impl<'a> From<View<'a>> for Input<'a> {
    fn from(rows: View<'a>) -> Self {
        Self::Rows(rows)
    }
}

impl Input<'_> {
    /// The rows; those that are made on the way have their values afterwards.
    pub(crate) fn rows(&self) -> View<'_> {
        match self {
            Self::Rows(rows) => *rows,
            Self::Normed(norm) => norm.out.as_view(),
            Self::Gated(gated) => gated.out.as_view(),
        }
    }

    /// Makes all rows, as an op of its own.
    pub fn make(&mut self, device: &Device) -> View<'_> {
        match self {
            Self::Rows(_) => {}
            Self::Normed(AddNorm { out, residual, x, weight, eps }) => {
                add_rms_norm(device, out.reborrow(), residual.reborrow(), *x, weight, *eps);
            }
            Self::Gated(Gated { out, gate_up, activation }) => {
                gated_mul(device, out.reborrow(), *gate_up, *activation);
            }
        }
        self.rows()
    }

    /// Makes one row that is not there yet.
    ///
    /// # Safety
    /// Nobody else uses this row at the same time, and it is made once.
    pub(super) unsafe fn make_row(&self, simd: SimdLevel, row: usize) {
        match self {
            Self::Rows(_) => {}
            // SAFETY: the caller's promise.
            Self::Normed(norm) => unsafe { norm.make_row(simd, row) },
            // SAFETY: as above.
            Self::Gated(gated) => unsafe { gated.make_row(simd, row) },
        }
    }
}
