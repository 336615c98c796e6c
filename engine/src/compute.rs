//! What a model computes on: threads, ranks, replicas, and the instruction set.

use anyhow::{bail, ensure};

use crate::config::{EngineConfig, EngineOptions, SimdLevel};
use crate::gpu::Place;
use crate::machine::Machine;
use crate::router::MAX_REPLICAS;

/// Ranks of each replica, if both numbers make sense.
pub(crate) fn num_ranks(options: &EngineOptions) -> anyhow::Result<usize> {
    let (num_ranks, num_replicas) = (options.tensor_parallel_size, options.data_parallel_size);
    ensure!(num_ranks > 0, "--tensor-parallel-size must be at least 1");
    ensure!(
        (1..=MAX_REPLICAS).contains(&num_replicas),
        "--data-parallel-size {num_replicas} is not between 1 and {MAX_REPLICAS}"
    );
    Ok(num_ranks)
}

/// Threads and instruction set.
pub(crate) struct Compute {
    /// Of each rank.
    pub threads: usize,
    pub num_ranks: usize,
    pub cpu_isa: SimdLevel,
}

pub(crate) fn compute(
    options: &EngineOptions,
    machine: &Machine,
    place: &Place,
) -> anyhow::Result<Compute> {
    let threads = options.threads.unwrap_or(machine.num_cores);
    ensure!((1..=1024).contains(&threads), "--threads {threads} is not between 1 and 1024");
    let (num_ranks, num_replicas) = (num_ranks(options)?, options.data_parallel_size);
    ensure!(
        num_ranks <= threads || place.gpu().is_some(),
        "--tensor-parallel-size {num_ranks} is more than the {threads} compute threads (--threads)"
    );
    ensure!(
        num_ranks * num_replicas <= threads || place.gpu().is_some(),
        "--data-parallel-size {num_replicas} takes {} compute threads, there are {threads} (--threads)",
        num_ranks * num_replicas
    );
    let cpu_isa = cpu_isa(options, machine)?;
    Ok(Compute { threads: (threads / num_ranks / num_replicas).max(1), num_ranks, cpu_isa })
}

fn cpu_isa(options: &EngineOptions, machine: &Machine) -> anyhow::Result<SimdLevel> {
    let levels = &machine.simd_levels;
    match options.cpu_isa {
        None => Ok(levels.iter().copied().max().unwrap_or(SimdLevel::Portable)),
        Some(level) if levels.contains(&level) => Ok(level),
        Some(level) => {
            bail!("--cpu-isa {}: this machine has {} only", level.name(), names(levels))
        }
    }
}

pub(crate) fn threads_line(config: &EngineConfig) -> String {
    match config.tensor_parallel_size {
        1 => config.threads.to_string(),
        num_ranks => format!("{} on each of {num_ranks} ranks", config.threads),
    }
}

pub(crate) fn replicas_line(config: &EngineConfig) -> String {
    match config.data_parallel_size {
        1 => "1".into(),
        replicas => format!("{replicas}, each with all of this"),
    }
}

pub(crate) fn names(levels: &[SimdLevel]) -> String {
    levels.iter().map(|level| level.name()).collect::<Vec<_>>().join(", ")
}
