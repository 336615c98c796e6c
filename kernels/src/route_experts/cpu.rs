//! `route_experts` on the CPU: rows are shared out, the order by expert is counted by the caller.

use std::cell::RefCell;

use super::{ExpertGroups, ExpertRouting, RouteExperts, RouterScores};
use crate::cpu::math::exp;
use crate::device::CpuDevice;
use crate::tensor::{Tensor, View, ViewMut};

/// Logits that are some microseconds of work.
const SMALLEST_TASK: usize = 2048;

/// Experts and weights of one row, and what the next rows use again.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    /// By what experts are chosen.
    choice: Vec<f32>,
    is_chosen: Vec<bool>,
}

pub(super) fn route_experts(
    cpu: &CpuDevice,
    routing: &mut ExpertRouting,
    logits: View,
    args: &RouteExperts,
) {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    let (num_rows, num_chosen) = (logits.rows(), routing.num_chosen);
    let experts = &mut routing.experts.u32_mut()[..num_rows * num_chosen];
    let experts = Shared(experts.as_mut_ptr());
    let weights: ViewMut = routing.weights.first_rows_mut(num_rows);
    cpu.pool.run_ranges(num_rows, SMALLEST_TASK.div_ceil(logits.cols()), &|rows| {
        SCRATCH.with_borrow_mut(|scratch| {
            for row in rows {
                // SAFETY: each task writes its own rows, which lie inside.
                let (experts, weights) = unsafe {
                    let experts = experts.at(row * num_chosen);
                    let experts = std::slice::from_raw_parts_mut(experts, num_chosen);
                    (experts, weights.row_f32_shared(row))
                };
                route_row(scratch, logits.row_f32(row), args, experts, weights);
            }
        });
    });
    sort_by_expert(routing);
}

/// A pointer that tasks share, each for its own elements.
struct Shared(*mut u32);

// SAFETY: tasks write disjoint elements.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// `index` lies inside.
    unsafe fn at(&self, index: usize) -> *mut u32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index) }
    }
}

fn route_row(
    scratch: &mut Scratch,
    logits: &[f32],
    args: &RouteExperts,
    experts: &mut [u32],
    weights: &mut [f32],
) {
    let spec = args.spec;
    scratch.scores.clear();
    scratch.choice.clear();
    match spec.scores {
        RouterScores::Softmax => {
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scratch.scores.extend(logits.iter().map(|&logit| exp::<false>(logit - largest)));
            let sum: f32 = scratch.scores.iter().sum();
            scratch.scores.iter_mut().for_each(|score| *score /= sum);
        }
        RouterScores::Sigmoid => {
            scratch.scores.extend(logits.iter().map(|&x| 1.0 / (1.0 + exp::<false>(-x))));
        }
    }
    match args.choice_bias.map(Tensor::f32) {
        Some(bias) => scratch.choice.extend(scratch.scores.iter().zip(bias).map(|(s, b)| s + b)),
        // Scores grow with the logits, which never round to equal numbers.
        None => scratch.choice.extend(logits),
    }
    scratch.is_chosen.clear();
    scratch.is_chosen.resize(logits.len(), false);
    if let Some(groups) = spec.groups {
        leave_out_groups(scratch, groups);
    }
    for expert in experts.iter_mut() {
        *expert = best(&scratch.choice, &scratch.is_chosen) as u32;
        scratch.is_chosen[*expert as usize] = true;
    }
    for (&expert, weight) in experts.iter().zip(weights.iter_mut()) {
        *weight = scratch.scores[expert as usize];
    }
    let sum: f32 = weights.iter().sum();
    // A sum of 0 (all scores too small) gives weights of 0.
    let factor = if spec.normalises { spec.scale / (sum + f32::MIN_POSITIVE) } else { spec.scale };
    weights.iter_mut().for_each(|weight| *weight *= factor);
    if let Some(scales) = args.expert_scales.map(Tensor::f32) {
        let experts = experts.iter().zip(weights);
        experts.for_each(|(&expert, weight)| *weight *= scales[expert as usize]);
    }
}

/// The first of the largest numbers that are not taken; numbers that are none come last.
fn best(numbers: &[f32], is_taken: &[bool]) -> usize {
    let mut best: Option<usize> = None;
    for (index, &number) in numbers.iter().enumerate() {
        let is_better = |best: usize| number > numbers[best] || numbers[best].is_nan();
        if !is_taken[index] && best.is_none_or(is_better) {
            best = Some(index);
        }
    }
    best.expect("no more are taken than there are")
}

/// Marks the experts of all but the best groups as taken.
fn leave_out_groups(scratch: &mut Scratch, groups: ExpertGroups) {
    let size = scratch.choice.len() / groups.num_groups;
    let worth = |group: usize| {
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for &score in &scratch.choice[group * size..][..size] {
            if score > first {
                (first, second) = (score, first);
            } else if score > second {
                second = score;
            }
        }
        first + second
    };
    for group in 0..groups.num_groups {
        let own = worth(group);
        let is_before = |other: usize| worth(other) > own || (worth(other) == own && other < group);
        let num_better = (0..groups.num_groups).filter(|&other| is_before(other)).count();
        if num_better >= groups.num_chosen {
            scratch.is_chosen[group * size..][..size].fill(true);
        }
    }
}

/// Gives each row and expert its place: by expert, then by row.
fn sort_by_expert(routing: &mut ExpertRouting) {
    let num_places = routing.num_places();
    let num_chosen = routing.num_chosen;
    let experts = &routing.experts.u32()[..num_places];
    let starts = routing.starts.u32_mut();
    starts.fill(0);
    for &expert in experts {
        starts[expert as usize + 1] += 1;
    }
    for expert in 1..starts.len() {
        starts[expert] += starts[expert - 1];
    }
    let (places, rows) = (routing.places.u32_mut(), routing.rows.u32_mut());
    // `starts[e]` moves to the end of expert e, which is where e + 1 starts.
    for (index, &expert) in experts.iter().enumerate() {
        let place = &mut starts[expert as usize];
        places[index] = *place;
        rows[*place as usize] = (index / num_chosen) as u32;
        *place += 1;
    }
    starts.rotate_right(1);
    starts[0] = 0;
}
