//! Where the model runs: on the CPU or on a GPU, and why; what a GPU cannot do for a model yet.

use anyhow::{anyhow, bail, ensure};
use quire_kernels::attention::cuda_shared_bytes;
use quire_kernels::choose_positions::index_shared_bytes;
use quire_kernels::cuda::{self, GpuInfo};
use quire_kernels::sample::MAX_NUM_LOGPROBS_ON_CUDA;
use quire_kernels::{DType, DeviceError};

use crate::config::{DeviceChoice, Dtype, EngineOptions, KvCacheDtype, Weights};
use crate::kv_cache::KvCache;
use crate::machine::Machine;
use crate::model_runner::sample_limits;
use crate::models::spec::Reach;
use crate::models::{DecoderSpec, EncoderSpec};
use crate::plan::DEFAULT_MAX_NUM_SEQS;

/// Bytes that the driver, cuBLAS and graphs take beside what is planned.
const RESERVED_BYTES: u64 = 512 << 20;

/// A GPU that was found and can run the model, or as many in a row as all ranks of all replicas take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Of the first.
    pub ordinal: usize,
    pub num_ranks: usize,
    pub num_replicas: usize,
    /// Of the first, with its compute capability.
    pub name: String,
    /// Bytes that weights, workspace and KV cache of a replica may take, on all of its GPUs.
    pub available_memory: u64,
}

/// What `--device` came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Cpu {
        /// Empty when it was asked for.
        why: String,
    },
    Gpu(Gpu),
}

impl Place {
    /// Bytes of the device that are free, for one replica.
    pub fn available_memory(&self, machine: &Machine, options: &EngineOptions) -> u64 {
        let shared = machine.available_memory / options.data_parallel_size.max(1) as u64;
        self.gpu().map_or(shared, |gpu| gpu.available_memory)
    }

    /// Finds the GPU that was asked for, or looks whether there is one that can run the model; `spec` is that of a rank.
    /// Errors name the flag.
    pub fn find(options: &EngineOptions, spec: &DecoderSpec) -> anyhow::Result<Self> {
        Self::choose(options, |info| check_decoder(spec, options, info))
    }

    /// As `find`, of an encoder.
    pub fn of_encoder(options: &EngineOptions, spec: &EncoderSpec) -> anyhow::Result<Self> {
        Self::choose(options, |info| {
            let num_seqs = options.max_num_seqs.unwrap_or(DEFAULT_MAX_NUM_SEQS) as usize;
            check_heads(spec.attention.head_dim, (None, false), num_seqs, info)
        })
    }

    /// That this place also has the kernels of `spec`, of layers that run beside the model.
    pub fn ensure_runs(&self, options: &EngineOptions, spec: &DecoderSpec) -> anyhow::Result<()> {
        let Self::Gpu(gpu) = self else { return Ok(()) };
        check_decoder(spec, options, &cuda::probe(gpu.ordinal)?)
    }

    /// `check`: whether that GPU can run the model.
    fn choose(
        options: &EngineOptions,
        check: impl Fn(&GpuInfo) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        match options.device {
            DeviceChoice::Cpu => Ok(Self::Cpu { why: String::new() }),
            DeviceChoice::Cuda(ordinal) => find_gpu(ordinal, options, check).map(Self::Gpu),
            DeviceChoice::Auto => Ok(match find_gpu(0, options, check) {
                Ok(gpu) => Self::Gpu(gpu),
                Err(error) => Self::Cpu { why: first_clause(&error.to_string()) },
            }),
        }
    }

    pub fn gpu(&self) -> Option<&Gpu> {
        match self {
            Self::Cpu { .. } => None,
            Self::Gpu(gpu) => Some(gpu),
        }
    }

    /// As `Device::activation_dtype`.
    pub fn activations(&self) -> DType {
        if self.gpu().is_some() { DType::BF16 } else { DType::F32 }
    }

    /// Of which memory a sentence speaks, and what to do; empty on the CPU.
    pub fn on_which(&self) -> String {
        self.gpu().map_or(String::new(), |gpu| {
            format!(" on GPU {} (--device cpu takes the machine's memory)", gpu.ordinal)
        })
    }

    /// The line that `serve` and `plan` print.
    pub fn line(&self) -> String {
        match self {
            Self::Cpu { why } if why.is_empty() => "CPU".into(),
            Self::Cpu { why } => format!("CPU ({why})"),
            Self::Gpu(Gpu { ordinal, num_ranks, num_replicas, name, .. }) => {
                match num_ranks * num_replicas {
                    1 => format!("GPU {ordinal}: {name}"),
                    all => format!("GPUs {ordinal} to {}: {name}", ordinal + all - 1),
                }
            }
        }
    }
}

fn find_gpu(
    ordinal: usize,
    options: &EngineOptions,
    check: impl Fn(&GpuInfo) -> anyhow::Result<()>,
) -> anyhow::Result<Gpu> {
    let (num_ranks, num_replicas) = (options.tensor_parallel_size, options.data_parallel_size);
    let info = probe(ordinal, num_ranks, num_replicas)?;
    check(&info)?;
    ensure!(
        options.weights != Weights::Float32,
        "--weights float32 runs on the CPU alone; start with --device cpu"
    );
    ensure!(
        matches!(options.dtype, Dtype::Auto | Dtype::Bfloat16),
        "on CUDA activations are bfloat16, and so are weights of floats; leave --dtype out"
    );
    ensure!(
        !matches!(options.kv_cache_dtype, KvCacheDtype::F32 | KvCacheDtype::F16),
        "on CUDA the KV cache is bf16 or fp8; leave --kv-cache-dtype out"
    );
    ensure!(
        options.max_logprobs <= MAX_NUM_LOGPROBS_ON_CUDA,
        "--max-logprobs {} is above {MAX_NUM_LOGPROBS_ON_CUDA}, what a GPU can report; lower it",
        options.max_logprobs
    );
    let available_memory = info.free_memory.saturating_sub(RESERVED_BYTES) * num_ranks as u64;
    Ok(Gpu { ordinal, num_ranks, num_replicas, name: info.name, available_memory })
}

/// GPU number `first`, with the free memory of that which has least, of those of all ranks in a row.
fn probe(first: usize, num_ranks: usize, num_replicas: usize) -> anyhow::Result<GpuInfo> {
    let info = cuda::probe(first)?;
    let mut least = info.free_memory;
    let end = first + num_ranks * num_replicas;
    let flags = match num_replicas {
        1 => format!("--tensor-parallel-size {num_ranks}"),
        _ => format!("--data-parallel-size {num_replicas} with --tensor-parallel-size {num_ranks}"),
    };
    for ordinal in first + 1..end {
        let other = cuda::probe(ordinal).map_err(|error| match error {
            DeviceError::CudaOrdinal { count, .. } => anyhow!(
                "{flags} takes the GPUs {first} to {}, but this machine has {count}, counted from 0",
                end - 1
            ),
            error => error.into(),
        })?;
        least = least.min(other.free_memory);
    }
    Ok(GpuInfo { free_memory: least, ..info })
}

/// Bytes of the sampler's table on a GPU: for the longest sequences whose keys and values could fit.
pub fn sampler_bytes(
    spec: &DecoderSpec,
    options: &EngineOptions,
    place: &Place,
    max_num_seqs: u32,
) -> u64 {
    let Place::Gpu(gpu) = place else { return 0 };
    let of_rank = gpu.available_memory / gpu.num_ranks as u64;
    let most_tokens = of_rank / KvCache::bytes_per_token(spec, kv_dtype(options), true).max(1);
    let max_model_len = options.max_model_len.unwrap_or(spec.context_length);
    let max_model_len = u64::from(max_model_len).min(most_tokens) as usize;
    let lists = (options.max_token_list, options.max_logprobs);
    sample_limits(spec.vocab_size, (max_num_seqs as usize, max_model_len), lists).num_bytes()
}

/// Every layer has kernels, whose blocks have enough shared memory.
fn check_decoder(
    spec: &DecoderSpec,
    options: &EngineOptions,
    info: &GpuInfo,
) -> anyhow::Result<()> {
    let num_seqs = options.max_num_seqs.unwrap_or(DEFAULT_MAX_NUM_SEQS) as usize;
    // To attention each row of a tree is a sequence.
    let of_trees = options.speculative.as_ref().filter(|own| own.eagle_topk > 1);
    let num_seqs = of_trees.map_or(num_seqs, |own| num_seqs * (1 + own.num_tokens as usize));
    let values_from = spec.latent.map(|latent| latent.rope_dim);
    for layer in spec.layers.iter().filter(|layer| !layer.is_recurrent) {
        let is_chosen = layer.reach != Reach::All;
        check_heads(layer.attention.head_dim, (values_from, is_chosen), num_seqs, info)?;
    }
    if let Some(indexer) = &spec.indexer {
        let (what, heads) = ("an indexer", indexer.heads);
        check_kernel((what, heads.head_dim), index_shared_bytes(&heads), info)?;
    }
    let is_fp8 = kv_dtype(options) == DType::F8E4M3;
    let has_fp8 = |head_dim: usize| head_dim.is_multiple_of(16) && head_dim <= 256;
    let mut head_dims = spec.layers.iter().map(|layer| layer.attention.head_dim);
    ensure!(
        !is_fp8 || (spec.latent.is_none() && head_dims.all(has_fp8)),
        "on CUDA --kv-cache-dtype fp8 is for attention over heads of up to 256 channels; leave it out"
    );
    if let Some(size) = odd_expert_size(spec) {
        bail!(
            "CUDA has no product of experts over rows of {size} numbers; start with --device cpu"
        );
    }
    Ok(())
}

/// `values_from`, `is_chosen`: as in `cuda_shared_bytes`.
fn check_heads(
    head_dim: usize,
    (values_from, is_chosen): (Option<usize>, bool),
    num_seqs: usize,
    info: &GpuInfo,
) -> anyhow::Result<()> {
    let bytes = cuda_shared_bytes(head_dim, values_from, num_seqs, is_chosen);
    check_kernel(("attention over heads", head_dim), bytes, info)
}

/// `bytes`: shared memory of a block of that kernel; none: there is no kernel.
fn check_kernel(
    (what, channels): (&str, usize),
    bytes: Option<usize>,
    info: &GpuInfo,
) -> anyhow::Result<()> {
    let Some(bytes) = bytes else {
        bail!("CUDA has no kernel for {what} of {channels} channels; start with --device cpu");
    };
    ensure!(
        bytes <= info.shared_bytes,
        "{what} of {channels} channels needs {} KiB of shared memory a block, {} has {} KiB; start with --device cpu",
        bytes.div_ceil(1024),
        info.name,
        info.shared_bytes / 1024
    );
    Ok(())
}

/// Inputs of an expert that are not whole vectors of what a thread loads.
fn odd_expert_size(spec: &DecoderSpec) -> Option<usize> {
    let moe = spec.moe?;
    [spec.hidden_size, moe.intermediate_size].into_iter().find(|size| !size.is_multiple_of(8))
}

/// "no CUDA driver was found (libcuda.so)" of a sentence that goes on with what to do.
fn first_clause(sentence: &str) -> String {
    sentence.split([':', ';']).next().unwrap_or(sentence).to_owned()
}

/// Element type of the KV cache on a GPU.
pub fn kv_dtype(options: &EngineOptions) -> DType {
    match options.kv_cache_dtype {
        KvCacheDtype::FP8 => DType::F8E4M3,
        _ => DType::BF16,
    }
}
