//! `linear` on the CPU: packed parts of a weight and dense parts have a path of their own.

use super::weight::{LinearWeight, Part};
use super::{dense, packed};
use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

/// The whole weight, in the order of x: then rows can be made while they are rounded.
pub(super) fn is_packed(weight: &LinearWeight) -> bool {
    weight.parts().iter().all(Part::is_packed) && !weight.has_order()
}

pub(super) fn linear(
    cpu: &CpuDevice,
    out: &ViewMut,
    x: View,
    weight: &LinearWeight,
    bias: Option<&[f32]>,
) {
    if weight.parts().iter().any(Part::is_packed) {
        packed::linear(cpu, out, &x.into(), weight, bias);
    }
    if !weight.parts().iter().all(Part::is_packed) {
        dense::linear(cpu, out, x, weight, bias);
    }
}
