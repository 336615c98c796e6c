//! `linear` on the CPU: packed parts of a weight and dense parts have a path of their own.

use super::weight::{LinearWeight, Part};
use super::{dense, packed};
use crate::device::CpuDevice;
use crate::tensor::{View, ViewMut};

pub(super) fn linear(
    cpu: &CpuDevice,
    out: &ViewMut,
    x: View,
    weight: &LinearWeight,
    bias: Option<&[f32]>,
) {
    let is_packed = |part: &Part| matches!(part, Part::Packed(_));
    if weight.parts().iter().any(is_packed) {
        packed::linear(cpu, out, x, weight, bias);
    }
    if !weight.parts().iter().all(is_packed) {
        dense::linear(cpu, out, x, weight, bias);
    }
}
