//! `linear` with a weight for each expert and rows that are sorted by expert: a step reads each chosen expert once.

use std::ops::Range;

use super::weight::{LinearWeight, Part};
use super::{dense, packed};
use crate::device::{CpuDevice, Device};
use crate::route_experts::ExpertRouting;
use crate::tensor::{DType, Tensor, View, ViewMut};

/// The same projection of each expert, all of one shape.
#[derive(Debug)]
pub struct ExpertWeights {
    experts: Vec<LinearWeight>,
    /// F32 `[num_experts, out_features]`
    bias: Option<Tensor>,
}

impl ExpertWeights {
    /// At least one expert, all of one shape; `bias` is F32 `[num_experts, out_features]`.
    pub fn new(experts: Vec<LinearWeight>, bias: Option<Tensor>) -> Self {
        let shape = |expert: &LinearWeight| (expert.out_features(), expert.in_features());
        let first = shape(experts.first().expect("there are experts"));
        assert!(experts.iter().all(|expert| shape(expert) == first), "shapes of experts differ");
        if let Some(bias) = &bias {
            assert_eq!((bias.rows(), bias.cols()), (experts.len(), first.0), "bias");
            assert_eq!(bias.dtype(), DType::F32, "bias");
        }
        Self { experts, bias }
    }

    pub fn num_experts(&self) -> usize {
        self.experts.len()
    }

    pub fn out_features(&self) -> usize {
        self.experts[0].out_features()
    }

    pub fn in_features(&self) -> usize {
        self.experts[0].in_features()
    }

    /// Bytes that all experts occupy.
    pub fn num_bytes(&self) -> usize {
        self.experts.iter().map(LinearWeight::num_bytes).sum()
    }
}

/// What the rows of x are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertInput {
    /// The rows of the step: each is read by all of its experts.
    Rows,
    /// A row for each place.
    Places,
}

/// `out[p] = x[p or the row of p] · weights[e]ᵀ + bias[e]` for each place p of each expert e. `out`: `[places,
/// out_features]` F32; `x`: F32.
pub fn expert_linear(
    device: &Device,
    out: ViewMut,
    x: View,
    input: ExpertInput,
    weights: &ExpertWeights,
    routing: &ExpertRouting,
) {
    let num_rows = match input {
        ExpertInput::Rows => routing.num_rows(),
        ExpertInput::Places => routing.num_places(),
    };
    assert_eq!(weights.num_experts(), routing.num_experts(), "experts");
    assert_eq!((x.rows(), x.cols()), (num_rows, weights.in_features()), "x");
    let shape = (routing.num_places(), weights.out_features());
    assert_eq!((out.rows(), out.cols()), shape, "out");
    assert!(out.dtype() == DType::F32 && x.dtype() == DType::F32);
    match device {
        Device::Cpu(cpu) => {
            let rows = (input == ExpertInput::Rows).then(|| routing.rows());
            run(cpu, &ExpertJob { out: &out, x, rows, weights, routing });
        }
        Device::Cuda(_) => crate::cuda::missing("expert_linear"),
        Device::Trace(log) => {
            let bias = if weights.bias.is_some() { " bias" } else { "" };
            let (rows, cols) = (x.rows(), x.cols());
            let num_experts = weights.num_experts();
            let places = routing.num_places();
            log.push(format!(
                "expert_linear {places} of {rows}x{cols} -> {}, {num_experts} experts{bias}",
                out.cols()
            ));
        }
    }
}

fn run(cpu: &CpuDevice, job: &ExpertJob) {
    let parts = || job.experts().flat_map(|(expert, _)| job.weight(expert).parts());
    if parts().any(|part| matches!(part, Part::Packed(_))) {
        packed::expert_linear(cpu, job);
    }
    if parts().any(|part| matches!(part, Part::Dense(_))) {
        dense::expert_linear(cpu, job);
    }
}

/// One call.
pub(super) struct ExpertJob<'a> {
    pub out: &'a ViewMut<'a>,
    pub x: View<'a>,
    /// The row of x of each place; none: x has a row for each place.
    rows: Option<&'a [u32]>,
    weights: &'a ExpertWeights,
    routing: &'a ExpertRouting,
}

impl<'a> ExpertJob<'a> {
    /// Each expert that has rows, with its rows of `out`.
    pub(super) fn experts(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let all = (0..self.weights.num_experts()).map(|expert| (expert, self.rows_of(expert)));
        all.filter(|(_, rows)| !rows.is_empty())
    }

    /// Rows of `out` that an expert makes.
    pub(super) fn rows_of(&self, expert: usize) -> Range<usize> {
        self.routing.places_of_expert(expert)
    }

    /// What row `row` of `out` is made of.
    pub(super) fn x_row(&self, row: usize) -> &'a [f32] {
        self.x.row_f32(self.rows.map_or(row, |rows| rows[row] as usize))
    }

    pub(super) fn weight(&self, expert: usize) -> &'a LinearWeight {
        &self.weights.experts[expert]
    }

    pub(super) fn bias(&self, expert: usize) -> Option<&'a [f32]> {
        let bias = self.weights.bias.as_ref()?.view();
        Some(bias.row_f32(expert))
    }
}
