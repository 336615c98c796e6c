//! Weights packed for integer dot products, and the matrix product on them.
//!
//! `packing` says how a format lies in a tile, `scales` makes its scales float32, `activations` makes x integers, `kernel`
//! is the inner loop over `lanes` (one file for each instruction set), `product` divides the work. `halves` are floats in
//! tiles of the same kind, with a loop of their own.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod experts;
mod halves;
mod kernel;
mod lanes;
mod packing;
mod portable;
mod product;
mod quantize;
mod scales;
mod weight;

pub use activations::ActivationPrecision;
pub(super) use experts::expert_linear;
pub(super) use halves::{PACKING as HALVES, takes as takes_halves};
pub(super) use packing::{BlockScales, Codes, GroupScaleKind, Packing, Scales};
pub(super) use product::linear;
pub(super) use weight::{PackedWeight, pack_blocks, packed_bytes};

/// Output features of a tile: two vectors of 512 bits in the dot product, 4 bytes each.
pub(super) const TILE: usize = 32;

/// Weights along k that share a scale of x.
pub(super) const BLOCK: usize = 32;
