//! From files to a model that can run: on one rank, or the parts of several side by side.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use crossbeam_channel::bounded;
use quire_kernels::{Device, GroupId, RankGroup, WeightPolicy};

use crate::config::{EngineConfig, RankFault, Weights};
use crate::model_runner::{Guessing, ModelRunner};
use crate::models::{DraftHead, HeadSpec, Model, ModelSpec, Vocabulary};
use crate::plan::MemoryPlan;
use crate::ranks::Ranks;
use crate::step_runner::panic_text;
use crate::weights::{Absent, ModelFiles, Shard, WeightLoader};

/// All ranks of a replica that the plan asks for. Progress is the first one's.
pub fn load_ranks(
    files: &ModelFiles,
    plan: &MemoryPlan,
    replica: usize,
    on_progress: &(dyn Fn(usize, usize) + Sync),
) -> anyhow::Result<Ranks> {
    let config = &plan.config;
    let num_ranks = config.tensor_parallel_size;
    if num_ranks == 1 {
        let runner = load_rank(files, plan, (replica, Shard::WHOLE), on_progress)?;
        return Ok(Ranks::new(vec![runner], None));
    }
    // Before minutes go into loading.
    let id = config.gpu.map(|_| GroupId::new()).transpose();
    let id = id.with_context(|| format!("--tensor-parallel-size {num_ranks}"))?;
    let runners = std::thread::scope(|scope| {
        let load = |rank: usize| {
            scope.spawn(move || {
                let silent = &|_: usize, _: usize| {};
                let on_progress = if rank == 0 { on_progress } else { silent };
                let shard = Shard { rank, num_ranks, halves_blocks: config.gpu.is_none() };
                load_rank(files, plan, (replica, shard), on_progress)
                    .with_context(|| of_ranks(rank, config))
            })
        };
        let threads: Vec<_> = (0..num_ranks).map(load).collect();
        let join = |(rank, thread): (usize, ScopedJoinHandle<'_, anyhow::Result<ModelRunner>>)| {
            let panicked = |payload: Box<dyn Any + Send>| {
                Err(anyhow::anyhow!("{}: {}", of_ranks(rank, config), panic_text(&*payload)))
            };
            thread.join().unwrap_or_else(panicked)
        };
        threads.into_iter().enumerate().map(join).collect::<anyhow::Result<Vec<_>>>()
    })?;
    let groups = RankGroup::new(num_ranks, config.rank_timeout);
    let first = groups.first().cloned();
    Ok(Ranks::new(join_all(runners, groups, id, config)?, first))
}

fn of_ranks(rank: usize, config: &EngineConfig) -> String {
    format!("rank {rank} of {}", config.tensor_parallel_size)
}

/// Has loaded ranks meet: no rank waits there for one that could not be loaded, nor for longer than the deadline.
fn join_all(
    runners: Vec<ModelRunner>,
    groups: Vec<RankGroup>,
    id: Option<GroupId>,
    config: &EngineConfig,
) -> anyhow::Result<Vec<ModelRunner>> {
    let (sender, joined) = bounded(runners.len());
    let mut places: Vec<Option<ModelRunner>> = runners.iter().map(|_| None).collect();
    for (rank, (mut runner, group)) in runners.into_iter().zip(groups).enumerate() {
        let sender = sender.clone();
        let join = move || {
            let joins = catch_unwind(AssertUnwindSafe(|| runner.join(group, id)));
            let result = match joins {
                Ok(result) => result.map(|()| Box::new(runner)).map_err(|error| error.to_string()),
                Err(payload) => Err(panic_text(&*payload)),
            };
            let _ = sender.send((rank, result));
        };
        std::thread::Builder::new().name(format!("quire-join-{rank}")).spawn(join)?;
    }
    let deadline = Instant::now() + config.rank_timeout;
    for _ in 0..places.len() {
        let Ok((rank, result)) = joined.recv_deadline(deadline) else {
            bail!("the ranks did not meet within {:?} (--rank-timeout)", config.rank_timeout)
        };
        let runner = result.map_err(anyhow::Error::msg);
        places[rank] = Some(*runner.with_context(|| of_ranks(rank, config))?);
    }
    Ok(places.into_iter().flatten().collect())
}

/// A model on one rank as planned, with the memory of its steps.
pub fn load_runner(
    files: &ModelFiles,
    plan: &MemoryPlan,
    on_progress: &(dyn Fn(usize, usize) + Sync),
) -> anyhow::Result<ModelRunner> {
    load_rank(files, plan, (0, Shard::WHOLE), on_progress)
}

/// The part of one rank of a replica.
fn load_rank(
    files: &ModelFiles,
    plan: &MemoryPlan,
    (replica, shard): (usize, Shard),
    on_progress: &(dyn Fn(usize, usize) + Sync),
) -> anyhow::Result<ModelRunner> {
    let config = &plan.config;
    let is_planted = matches!(config.faults.on_other_rank, Some((_, RankFault::Load)));
    ensure!(shard.rank == 0 || !is_planted, "planted");
    // Ranks of all replicas side by side.
    let place = replica * shard.num_ranks + shard.rank;
    let num_places = config.data_parallel_size * shard.num_ranks;
    let device = match config.gpu {
        Some(first) => open_gpu(first + place, config)?,
        None => Device::cpu_of_rank(config.threads, config.cpu_isa, (place, num_places)),
    };
    let _near = device.stay_near();
    // Where two experts or positions are near, rounding would choose another.
    let chooses =
        plan.spec.decoder().is_some_and(|spec| spec.moe.is_some() || spec.indexer.is_some());
    let policy = match config.weights {
        Weights::Packed if chooses => WeightPolicy::Packed,
        Weights::Packed => WeightPolicy::PackedHalves,
        Weights::Float32 => WeightPolicy::Float32,
    };
    let loader = WeightLoader::new(files, &device, policy, on_progress);
    let loader = match files {
        ModelFiles::Dummy(dummy) => loader.with_absent(Absent::Dummy(dummy.format())),
        ModelFiles::Gguf(_) | ModelFiles::Directory(_) => loader,
    };
    let loader = loader.with_activations(config.activations).with_dtype(config.dtype);
    let loader = loader.with_shard(shard);
    let (spec, skipped) = (plan.spec.of_rank(shard)?, &config.skipped_layers);
    let model = Model::load(spec.clone(), skipped, &loader, config.max_model_len as usize)?;
    let guessing = match &plan.head {
        Some(spec) => Some(load_guessing((plan, spec), shard, loader, policy)?),
        None => None,
    };
    let parts = (model, guessing);
    ModelRunner::new(device, parts, (&spec, plan.pooling), config).map_err(|error| {
        anyhow::anyhow!("{error}; lower --kv-cache-memory or --max-num-batched-tokens")
    })
}

/// What of the head of `spec` a rank has; `loader` is of the model.
fn load_guessing<'a>(
    (plan, spec): (&MemoryPlan, &'a HeadSpec),
    shard: Shard,
    loader: WeightLoader,
    policy: WeightPolicy,
) -> anyhow::Result<Guessing<'a>> {
    if shard.rank > 0 {
        return Ok(Guessing { spec, head: None, vocabulary: None });
    }
    let head = Some(load_head(spec, loader.device(), (policy, &plan.config))?);
    let vocabulary = match &plan.spec {
        ModelSpec::Decoder(model) if !shard.is_whole() => {
            Some(Vocabulary::load(model, &loader.with_shard(Shard::WHOLE))?)
        }
        _ => None,
    };
    Ok(Guessing { spec, head, vocabulary })
}

/// The head that guesses for the model.
fn load_head(
    spec: &HeadSpec,
    device: &Device,
    (policy, config): (WeightPolicy, &EngineConfig),
) -> anyhow::Result<DraftHead> {
    let files = ModelFiles::open(&spec.path)?;
    let loader = WeightLoader::new(&files, device, policy, &|_, _| ());
    let loader = loader.with_activations(config.activations).with_dtype(config.dtype);
    let head = DraftHead::load(spec.clone(), &loader, config.max_model_len as usize)?;
    if let Some(tensor) = files.unused_tensor() {
        anyhow::bail!("{}: tensor {tensor:?} has no place in an EAGLE head", spec.path.display());
    }
    Ok(head)
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
