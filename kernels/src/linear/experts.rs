//! `linear` with a weight for each expert and rows that are sorted by expert: a step reads each chosen expert once.

use std::ops::Range;

use super::cuda_experts::{self, ExpertTable};
use super::heads::HeadStrides;
use super::weight::{LinearWeight, Part};
use super::{LinearError, cpu, dense, packed};
use crate::cpu::SimdLevel;
use crate::device::{CpuDevice, Device};
use crate::gated_mul::{Gated, gated_mul};
use crate::route_experts::ExpertRouting;
use crate::tensor::{Tensor, View, ViewMut};

/// The same projection of each expert, all of one shape.
#[derive(Debug)]
pub struct ExpertWeights {
    experts: Vec<LinearWeight>,
    /// `[num_experts, out_features]`, activations
    bias: Option<Tensor>,
    /// Where the weights lie on a GPU.
    tables: Vec<ExpertTable>,
}

impl ExpertWeights {
    /// At least one expert, all of one shape, each with one order (`LinearWeight::has_one_order`); `bias` is `[num_experts,
    /// out_features]` in the device's type for activations.
    pub fn new(mut experts: Vec<LinearWeight>, bias: Option<Tensor>) -> Result<Self, LinearError> {
        let shape = |expert: &LinearWeight| (expert.out_features(), expert.in_features());
        let first = shape(experts.first().expect("there are experts"));
        assert!(experts.iter().all(|expert| shape(expert) == first), "shapes of experts differ");
        assert!(experts.iter().all(LinearWeight::has_one_order), "orders inside an expert differ");
        if let Some(bias) = &bias {
            assert_eq!((bias.rows(), bias.cols()), (experts.len(), first.0), "bias");
        }
        let tables = match experts[0].is_on_cuda() {
            true => cuda_experts::tables(&mut experts)?,
            false => Vec::new(),
        };
        Ok(Self { experts, bias, tables })
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

    pub(super) fn tables(&self) -> &[ExpertTable] {
        &self.tables
    }

    pub(super) fn all_biases(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    fn is_packed(&self) -> bool {
        self.experts.iter().all(cpu::is_packed)
    }

    /// Bytes that all experts occupy.
    pub fn num_bytes(&self) -> usize {
        self.experts.iter().map(LinearWeight::num_bytes).sum()
    }
}

/// The rows that experts read.
pub enum ExpertInput<'a> {
    /// The rows of the step: each is read by all of its experts.
    Rows(View<'a>),
    /// A row for each place.
    Places(View<'a>),
    /// The rows that `gated_mul` makes, one for each place: `Gated::out`.
    Gated(Gated<'a>),
}

impl ExpertInput<'_> {
    fn rows(&self) -> View<'_> {
        match self {
            Self::Rows(rows) | Self::Places(rows) => *rows,
            Self::Gated(gated) => gated.out.as_view(),
        }
    }
}

/// `out[p] = x[p or the row of p] · weights[e]ᵀ + bias[e]` for each place p of each expert e. `out`: `[places,
/// out_features]`, the rows of x: activations.
pub fn expert_linear(
    device: &Device,
    out: ViewMut,
    mut input: ExpertInput,
    weights: &ExpertWeights,
    routing: &ExpertRouting,
) {
    let num_rows = match input {
        ExpertInput::Rows(_) => routing.num_rows(),
        ExpertInput::Places(_) | ExpertInput::Gated(_) => routing.num_places(),
    };
    let x = input.rows();
    assert_eq!(weights.num_experts(), routing.num_experts(), "experts");
    assert_eq!((x.rows(), x.cols()), (num_rows, weights.in_features()), "x");
    let shape = (routing.num_places(), weights.out_features());
    assert_eq!((out.rows(), out.cols()), shape, "out");
    let activations = device.activation_dtype();
    assert_eq!([out.dtype(), x.dtype()], [activations; 2], "out, x");
    let bias = weights.bias.as_ref().map(Tensor::dtype);
    assert!(bias.is_none_or(|dtype| dtype == activations), "bias");
    let trace = || {
        let bias = if weights.bias.is_some() { " bias" } else { "" };
        let (rows, cols, num_experts) = (x.rows(), x.cols(), weights.num_experts());
        let places = routing.num_places();
        let out = out.cols();
        format!("expert_linear {places} of {rows}x{cols} -> {out}, {num_experts} experts{bias}")
    };
    let line = matches!(device, Device::Trace(_)).then(trace);
    // Float weights read rows more than once, so those are made before; so they are where each op is a line.
    let is_on_the_way = matches!(device, Device::Cpu(_)) && weights.is_packed();
    if let ExpertInput::Gated(Gated { out, gate_up, activation }) = &mut input
        && !is_on_the_way
    {
        gated_mul(device, out.reborrow(), *gate_up, *activation);
    }
    match device {
        Device::Cpu(cpu) => {
            let gated = match &input {
                ExpertInput::Gated(gated) if is_on_the_way => Some(gated),
                _ => None,
            };
            let of_step = matches!(input, ExpertInput::Rows(_)).then(|| routing.rows());
            let rows = JobRows::Routed { routing, of_step };
            run(cpu, &ExpertJob { out: &out, x: input.rows(), gated, rows, weights });
        }
        Device::Cuda(cuda) => {
            let of_step = matches!(input, ExpertInput::Rows(_));
            cuda_experts::expert_linear(cuda, &out, &input.rows(), of_step, weights, routing);
        }
        Device::Trace(log) => log.push(line.unwrap_or_default()),
    }
}

/// As `head_linear`.
pub(super) fn run_heads(
    cpu: &CpuDevice,
    out: &ViewMut,
    x: View,
    strides: HeadStrides,
    weights: &ExpertWeights,
) {
    assert!(weights.bias.is_none(), "heads have no biases");
    let rows = JobRows::Heads { num_rows: x.rows(), strides };
    run(cpu, &ExpertJob { out, x, gated: None, rows, weights });
}

fn run(cpu: &CpuDevice, job: &ExpertJob) {
    let parts = || job.experts().flat_map(|(expert, _)| job.weight(expert).parts());
    if parts().any(Part::is_packed) {
        packed::expert_linear(cpu, job);
    }
    if !parts().all(Part::is_packed) {
        dense::expert_linear(cpu, job);
    }
}

/// One call; a head counts as an expert of all rows.
pub(super) struct ExpertJob<'a> {
    out: &'a ViewMut<'a>,
    x: View<'a>,
    /// Makes the rows of x, each once.
    gated: Option<&'a Gated<'a>>,
    rows: JobRows<'a>,
    weights: &'a ExpertWeights,
}

enum JobRows<'a> {
    Routed {
        routing: &'a ExpertRouting,
        /// The row of x of each place; none: x has a row for each place.
        of_step: Option<&'a [u32]>,
    },
    Heads {
        num_rows: usize,
        strides: HeadStrides,
    },
}

impl<'a> ExpertJob<'a> {
    /// Each expert that has rows, with its rows of `out`.
    pub(super) fn experts(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let all = (0..self.weights.num_experts()).map(|expert| (expert, self.rows_of(expert)));
        all.filter(|(_, rows)| !rows.is_empty())
    }

    /// Those without rows, too.
    pub(super) fn num_experts(&self) -> usize {
        self.weights.num_experts()
    }

    /// Rows of `out` that an expert makes.
    pub(super) fn rows_of(&self, expert: usize) -> Range<usize> {
        match self.rows {
            JobRows::Routed { routing, .. } => routing.places_of_expert(expert),
            JobRows::Heads { num_rows, .. } => 0..num_rows,
        }
    }

    /// Where an expert writes.
    ///
    /// # Safety
    /// No two slices of `out` alive at once may overlap.
    pub(super) unsafe fn out(&self, expert: usize) -> ViewMut<'a> {
        // SAFETY: the caller's promise.
        let out = unsafe { self.out.alias() };
        match self.rows {
            JobRows::Routed { .. } => out,
            JobRows::Heads { strides, .. } => {
                let start = expert * strides.out;
                out.columns(start..start + self.weights.out_features())
            }
        }
    }

    /// All rows of x, whole.
    pub(super) fn rows_of_x(&self) -> View<'a> {
        self.x
    }

    /// Elements of a row that an expert reads.
    pub(super) fn in_features(&self) -> usize {
        self.weights.in_features()
    }

    /// What an expert makes row `row` of `out` of.
    pub(super) fn x_row(&self, expert: usize, row: usize) -> &'a [f32] {
        match self.rows {
            JobRows::Routed { of_step, .. } => {
                self.x.row_f32(of_step.map_or(row, |rows| rows[row] as usize))
            }
            JobRows::Heads { strides, .. } => {
                &self.x.row_f32(row)[expert * strides.x..][..self.in_features()]
            }
        }
    }

    /// Makes the row of x that row `row` of `out` is made of, where that is not there yet.
    ///
    /// # Safety
    /// Nobody else uses this row at the same time, and it is made once.
    pub(super) unsafe fn make_row(&self, simd: SimdLevel, row: usize) {
        if let Some(gated) = self.gated {
            // SAFETY: the caller's promise.
            unsafe { gated.make_row(simd, row) };
        }
    }

    pub(super) fn weight(&self, expert: usize) -> &'a LinearWeight {
        &self.weights.experts[expert]
    }

    pub(super) fn bias(&self, expert: usize) -> Option<&'a [f32]> {
        let bias = self.weights.bias.as_ref()?.view();
        Some(bias.row_f32(expert))
    }
}
