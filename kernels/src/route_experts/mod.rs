//! Which experts compute each row of a step, and with which weights (Shazeer et al. 2017), and the rows in the order of
//! their experts, so that each chosen expert is read once.
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::{Device, DeviceError};
use crate::tensor::{DType, Tensor, View};

/// How the router's logits become a choice and weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterSpec {
    pub num_experts: usize,
    /// Experts of each row, 1 to `num_experts`.
    pub num_chosen: usize,
    pub scores: RouterScores,
    /// Only experts of the best groups can be chosen; a group's score is the sum of its two best experts
    /// (DeepSeek-V3, arXiv 2412.19437).
    pub groups: Option<ExpertGroups>,
    /// Weights are divided by their sum over a row's experts. After a softmax of all logits this is the same as a softmax
    /// of the chosen ones.
    pub normalises: bool,
    /// Multiplies the weights after that.
    pub scale: f32,
}

/// What a logit is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterScores {
    /// `e^logit / Σ e^logit` over all experts.
    Softmax,
    /// `1 / (1 + e^−logit)`.
    Sigmoid,
}

/// Groups of neighbouring experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertGroups {
    /// Divides the number of experts into groups of at least two.
    pub num_groups: usize,
    /// Groups whose experts can be chosen, 1 to `num_groups`; they have `num_chosen` experts at least.
    pub num_chosen: usize,
}

impl RouterSpec {
    /// Why no router can be so; files may say anything.
    pub fn check(&self) -> Result<(), String> {
        let Self { num_experts, num_chosen, .. } = *self;
        if !(1..=num_experts).contains(&num_chosen) {
            return Err(format!("{num_chosen} of {num_experts} experts cannot be chosen"));
        }
        let Some(ExpertGroups { num_groups, num_chosen: chosen_groups }) = self.groups else {
            return Ok(());
        };
        let size = num_experts.checked_div(num_groups).unwrap_or(0);
        if size < 2 || size * num_groups != num_experts {
            return Err(format!(
                "{num_experts} experts do not make {num_groups} groups of two or more"
            ));
        }
        if !(1..=num_groups).contains(&chosen_groups) || chosen_groups * size < num_chosen {
            return Err(format!(
                "{num_chosen} experts cannot be chosen from {chosen_groups} groups of {size}"
            ));
        }
        Ok(())
    }
}

/// What `route_experts` reads beside the logits.
#[derive(Clone, Copy)]
pub struct RouteExperts<'a> {
    pub spec: &'a RouterSpec,
    /// `[1, num_experts]` F32, added to the scores for the choice alone.
    pub choice_bias: Option<&'a Tensor>,
    /// `[1, num_experts]` F32: multiplies the weight of each expert.
    pub expert_scales: Option<&'a Tensor>,
}

/// The choice for the rows of a step, and the same sorted by expert: a place for each row and each of its experts.
pub struct ExpertRouting {
    num_experts: usize,
    num_chosen: usize,
    num_rows: usize,
    /// U32 `[max_rows, num_chosen]`, the best first.
    experts: Tensor,
    /// F32 `[max_rows, num_chosen]`
    weights: Tensor,
    /// U32 `[max_rows, num_chosen]`: where the row's work for that expert lies.
    places: Tensor,
    /// U32 `[1, num_experts + 1]`: expert e has the places `starts[e]..starts[e + 1]`.
    starts: Tensor,
    /// U32 `[max_rows, num_chosen]`, by place: the row.
    rows: Tensor,
    /// Of a GPU: what the blocks of `expert_linear` take. U32 `[1 + most tiles, 2]`: how many tiles there are; then the
    /// expert and the first place of each.
    tiles: Tensor,
}

impl ExpertRouting {
    /// Room for `max_rows`, all allocated here.
    pub fn new(
        device: &Device,
        max_rows: usize,
        num_experts: usize,
        num_chosen: usize,
    ) -> Result<Self, DeviceError> {
        let of_rows = |dtype| device.allocate(dtype, max_rows, num_chosen);
        Ok(Self {
            num_experts,
            num_chosen,
            num_rows: 0,
            experts: of_rows(DType::U32)?,
            weights: of_rows(DType::F32)?,
            places: of_rows(DType::U32)?,
            starts: device.allocate(DType::U32, 1, num_experts + 1)?,
            rows: of_rows(DType::U32)?,
            tiles: device.allocate(
                DType::U32,
                1 + most_tiles(max_rows, num_experts, num_chosen),
                2,
            )?,
        })
    }

    /// Bytes that `new` takes.
    pub fn num_bytes(max_rows: usize, num_experts: usize, num_chosen: usize) -> u64 {
        let tiles = 1 + most_tiles(max_rows, num_experts, num_chosen) as u64;
        4 * (4 * max_rows as u64 * num_chosen as u64 + num_experts as u64 + 1 + 2 * tiles)
    }

    /// A copy in host memory.
    pub fn read(&self) -> Self {
        Self {
            experts: self.experts.read(),
            weights: self.weights.read(),
            places: self.places.read(),
            starts: self.starts.read(),
            rows: self.rows.read(),
            tiles: self.tiles.read(),
            ..*self
        }
    }

    pub fn num_experts(&self) -> usize {
        self.num_experts
    }

    pub fn num_chosen(&self) -> usize {
        self.num_chosen
    }

    /// Rows of the last call of `route_experts`.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    pub fn num_places(&self) -> usize {
        self.num_rows * self.num_chosen
    }

    /// The experts of a row, the best first.
    pub fn experts_of(&self, row: usize) -> &[u32] {
        &self.experts.u32()[row * self.num_chosen..][..self.num_chosen]
    }

    /// The weights of the row's experts.
    pub fn weights_of(&self, row: usize) -> &[f32] {
        &self.weights.f32()[row * self.num_chosen..][..self.num_chosen]
    }

    /// The places of the row's experts.
    pub fn places_of(&self, row: usize) -> &[u32] {
        &self.places.u32()[row * self.num_chosen..][..self.num_chosen]
    }

    /// The places of an expert.
    pub fn places_of_expert(&self, expert: usize) -> std::ops::Range<usize> {
        let starts = self.starts.u32();
        starts[expert] as usize..starts[expert + 1] as usize
    }

    /// The row of each place.
    pub fn rows(&self) -> &[u32] {
        &self.rows.u32()[..self.num_places()]
    }
}

/// Fills `routing` for the rows of `logits` (`[n, num_experts]` F32). Of equal scores the first expert is chosen.
pub fn route_experts(
    device: &Device,
    routing: &mut ExpertRouting,
    logits: View,
    args: &RouteExperts,
) {
    let spec = args.spec;
    assert_eq!(spec.check(), Ok(()), "router");
    assert_eq!(logits.cols(), spec.num_experts, "logits");
    assert_eq!(
        (routing.num_experts, routing.num_chosen),
        (spec.num_experts, spec.num_chosen),
        "routing"
    );
    assert!(logits.rows() <= routing.experts.rows(), "{} rows", logits.rows());
    assert_eq!(logits.dtype(), DType::F32, "logits");
    for vector in [args.choice_bias, args.expert_scales].into_iter().flatten() {
        assert_eq!((vector.rows(), vector.cols()), (1, spec.num_experts), "a number an expert");
        assert_eq!(vector.dtype(), DType::F32, "a number an expert");
    }
    routing.num_rows = logits.rows();
    match device {
        Device::Cpu(cpu) => cpu::route_experts(cpu, routing, logits, args),
        Device::Cuda(cuda) => cuda::route_experts(cuda, routing, &logits, args),
        Device::Trace(log) => log.push(trace_line(&logits, args)),
    }
}

/// Tiles of 8 rows or more of one expert that `max_rows` rows can have.
fn most_tiles(max_rows: usize, num_experts: usize, num_chosen: usize) -> usize {
    let most_places = max_rows * num_chosen;
    most_places.min(most_places / cuda::TILE_ROWS[0] + num_experts)
}

fn trace_line(logits: &View, args: &RouteExperts) -> String {
    let spec = args.spec;
    let groups = spec.groups.map_or(String::new(), |groups| {
        format!(", {} of {} groups", groups.num_chosen, groups.num_groups)
    });
    format!(
        "route_experts {} rows to {} of {}, {:?}{groups}{}{}{}{}",
        logits.rows(),
        spec.num_chosen,
        spec.num_experts,
        spec.scores,
        if spec.normalises { ", normalised" } else { "" },
        if spec.scale == 1.0 { String::new() } else { format!(", x {}", spec.scale) },
        if args.choice_bias.is_some() { ", bias" } else { "" },
        if args.expert_scales.is_some() { ", scales" } else { "" },
    )
}
