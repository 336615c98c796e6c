//! What experts made of a row becomes the row's again: `out[r] = shared[r] · σ(gate[r]) + Σ_e weight[r][e] · x[place(r, e)]`,
//! σ(z) = 1 / (1 + e⁻ᶻ). The experts are added in the order of their scores.
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::route_experts::ExpertRouting;
use crate::tensor::{DType, View, ViewMut};

/// What the expert that every row has adds.
#[derive(Clone, Copy)]
pub struct SharedExpert<'a> {
    /// `[n, cols]` activations
    pub out: View<'a>,
    /// `[n, 1]` F32; none: the whole output is added.
    pub gate: Option<View<'a>>,
}

/// `out`: `[n, cols]`, `x`: `[places, cols]`, activations. Without `weighted` each weight is 1.
pub fn combine_experts(
    device: &Device,
    out: ViewMut,
    x: View,
    routing: &ExpertRouting,
    weighted: bool,
    shared: Option<SharedExpert>,
) {
    let n = routing.num_rows();
    assert_eq!((out.rows(), out.cols()), (n, x.cols()), "out");
    assert_eq!(x.rows(), routing.num_places(), "x");
    let activations = device.activation_dtype();
    assert_eq!([out.dtype(), x.dtype()], [activations; 2], "out, x");
    if let Some(shared) = shared {
        assert_eq!((shared.out.rows(), shared.out.cols()), (n, x.cols()), "shared");
        assert_eq!(shared.out.dtype(), activations, "shared");
        let gate = shared.gate.map(|gate| (gate.rows(), gate.cols(), gate.dtype()));
        assert!(gate.is_none_or(|gate| gate == (n, 1, DType::F32)), "gate");
    }
    match device {
        Device::Cpu(cpu) => cpu::combine_experts(cpu, &out, x, routing, weighted, shared),
        Device::Cuda(cuda) => {
            cuda::combine_experts(cuda, &out, &x, routing, weighted, shared.as_ref());
        }
        Device::Trace(log) => log.push(format!(
            "combine_experts {n}x{} of {}{}{}",
            out.cols(),
            x.rows(),
            if weighted { "" } else { ", plain sum" },
            match shared {
                None => "",
                Some(SharedExpert { gate: None, .. }) => ", shared",
                Some(_) => ", gated shared",
            }
        )),
    }
}
