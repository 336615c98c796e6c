//! From files to a model that can run: on one rank, or the parts of several side by side.

use std::any::Any;
use std::thread::ScopedJoinHandle;

use anyhow::Context;
use quire_kernels::{Device, RankGroup, WeightPolicy};

use crate::config::{EngineConfig, Weights};
use crate::model_runner::ModelRunner;
use crate::models::Model;
use crate::plan::MemoryPlan;
use crate::ranks::Ranks;
use crate::step_runner::panic_text;
use crate::weights::{Absent, ModelFiles, Shard, WeightLoader};

/// All ranks that the plan asks for. Progress is the first one's.
pub fn load_ranks(
    files: &ModelFiles,
    plan: &MemoryPlan,
    on_progress: &(dyn Fn(usize, usize) + Sync),
) -> anyhow::Result<Ranks> {
    let config = &plan.config;
    let num_ranks = config.tensor_parallel_size;
    if num_ranks == 1 {
        return Ok(Ranks::new(vec![load_runner(files, plan, on_progress)?], None));
    }
    let groups = RankGroup::new(num_ranks, config.rank_timeout);
    let first = groups.first().cloned();
    let runners = std::thread::scope(|scope| {
        let load = |group: RankGroup| {
            scope.spawn(move || {
                let (rank, silent) = (group.rank(), &|_: usize, _: usize| {});
                let on_progress = if rank == 0 { on_progress } else { silent };
                let shard = Shard { rank, num_ranks };
                load_rank(files, plan, shard, Some(group), on_progress)
                    .with_context(|| format!("rank {rank} of {num_ranks}"))
            })
        };
        let threads: Vec<_> = groups.into_iter().map(load).collect();
        let join = |(rank, thread): (usize, ScopedJoinHandle<'_, anyhow::Result<ModelRunner>>)| {
            let panicked = |payload: Box<dyn Any + Send>| {
                Err(anyhow::anyhow!("rank {rank}: {}", panic_text(&*payload)))
            };
            thread.join().unwrap_or_else(panicked)
        };
        threads.into_iter().enumerate().map(join).collect::<anyhow::Result<Vec<_>>>()
    })?;
    Ok(Ranks::new(runners, first))
}

/// A model on one rank as planned, with the memory of its steps.
pub fn load_runner(
    files: &ModelFiles,
    plan: &MemoryPlan,
    on_progress: &(dyn Fn(usize, usize) + Sync),
) -> anyhow::Result<ModelRunner> {
    load_rank(files, plan, Shard::WHOLE, None, on_progress)
}

/// The part of one rank.
fn load_rank(
    files: &ModelFiles,
    plan: &MemoryPlan,
    shard: Shard,
    group: Option<RankGroup>,
    on_progress: &(dyn Fn(usize, usize) + Sync),
) -> anyhow::Result<ModelRunner> {
    let config = &plan.config;
    let device = match config.gpu {
        Some(ordinal) => open_gpu(ordinal, config)?,
        None => Device::cpu_of_rank(config.threads, config.cpu_isa, (shard.rank, shard.num_ranks)),
    };
    let _near = device.stay_near();
    let policy = match config.weights {
        Weights::Packed => WeightPolicy::Packed,
        Weights::Float32 => WeightPolicy::Float32,
    };
    let loader = WeightLoader::new(files, &device, policy, on_progress);
    let loader = match files {
        ModelFiles::Dummy(dummy) => loader.with_absent(Absent::Dummy(dummy.format())),
        ModelFiles::Gguf(_) | ModelFiles::Directory(_) => loader,
    };
    let loader = loader.with_activations(config.activations).with_dtype(config.dtype);
    let loader = loader.with_shard(shard);
    let (spec, skipped) = (plan.spec.of_rank(shard.num_ranks)?, &config.skipped_layers);
    let model = Model::load(spec.clone(), skipped, &loader, config.max_model_len as usize)?;
    let model = match group {
        Some(group) => model.with_group(group),
        None => model,
    };
    ModelRunner::new(device, (model, (&spec, plan.pooling)), config).map_err(|error| {
        anyhow::anyhow!("{error}; lower --kv-cache-memory or --max-num-batched-tokens")
    })
}

fn open_gpu(ordinal: usize, config: &EngineConfig) -> anyhow::Result<Device> {
    let mut device = Device::cuda(ordinal)?;
    if let Device::Cuda(cuda) = &mut device
        && config.batch_invariant
    {
        cuda.set_batch_invariant();
    }
    Ok(device)
}
