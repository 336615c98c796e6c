//! Times launches on the GPU itself: events around many of them, as a graph where they can be recorded.

use std::panic::{AssertUnwindSafe, catch_unwind};

use quire_kernels::cases::Work;
use quire_kernels::device::CudaDevice;
use serde::Serialize;

use super::floors::Floors;
use crate::statistics::median;

/// How long to time.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub rounds: usize,
    /// Least time of a round.
    pub seconds: f64,
    /// Calls that one graph holds.
    pub calls_at_once: usize,
}

impl Budget {
    pub const FULL: Self = Self { rounds: 5, seconds: 0.02, calls_at_once: 16 };
    pub const TINY: Self = Self { rounds: 1, seconds: 0.0, calls_at_once: 2 };
}

/// Something to time.
pub struct GpuCase {
    pub op: &'static str,
    pub name: String,
    pub work: Work,
    /// Launches the op once; the next call takes other memory where there is some.
    pub run: Box<dyn FnMut()>,
}

#[derive(Clone, Debug, Serialize)]
pub struct GpuMeasurement {
    pub op: &'static str,
    pub name: String,
    /// The median of the rounds.
    pub microseconds: f64,
    /// Largest less smallest round, as a share of the median.
    pub spread: f64,
    /// Replayed as a graph: the host's time between launches is left out.
    pub is_graph: bool,
    pub floor_microseconds: f64,
    /// "memory" or "arithmetic": which of the two the floor is.
    pub bound: &'static str,
    /// Floor over time, 0 to about 1.
    pub share: f64,
}

/// Seconds a call in each round, and whether a graph was replayed.
pub fn time(cuda: &CudaDevice, budget: Budget, run: &mut dyn FnMut()) -> (Vec<f64>, bool) {
    run();
    run();
    cuda.synchronize();
    let once = cuda.time(&mut *run).max(1e-7);
    let calls = if once > 0.005 { 1 } else { budget.calls_at_once };
    // What waits for its result on the host cannot be recorded.
    let record = AssertUnwindSafe(|| cuda.record(|| (0..calls).for_each(|_| run())));
    let graph = catch_unwind(record).ok();
    let mut repeat = |times: usize| match &graph {
        Some(graph) => (0..times).for_each(|_| graph.launch()),
        None => (0..times * calls).for_each(|_| run()),
    };
    repeat(1);
    let times = (budget.seconds / (once * calls as f64)).ceil().clamp(1.0, 4096.0) as usize;
    let rounds = (0..budget.rounds.max(1))
        .map(|_| cuda.time(|| repeat(times)) / (times * calls) as f64)
        .collect();
    (rounds, graph.is_some())
}

pub fn measure(
    cuda: &CudaDevice,
    budget: Budget,
    floors: &Floors,
    case: &mut GpuCase,
) -> GpuMeasurement {
    let (rounds, is_graph) = time(cuda, budget, &mut case.run);
    let seconds = median(&rounds);
    let range = rounds
        .iter()
        .fold((f64::INFINITY, 0.0_f64), |(low, high), &round| (low.min(round), high.max(round)));
    let (floor, bound) = floors.of(case.work);
    GpuMeasurement {
        op: case.op,
        name: case.name.clone(),
        microseconds: 1e6 * seconds,
        spread: (range.1 - range.0) / seconds,
        is_graph,
        floor_microseconds: 1e6 * floor,
        bound,
        share: floor / seconds,
    }
}
