//! What the user asked for (`EngineOptions`) and what that came to (`EngineConfig`): decided once, never written again.

use std::ops::Range;
use std::time::Duration;

pub use crate::activations::{Activations, LinearKind};
pub use quire_kernels::WeightFormat;
pub use quire_kernels::cpu::SimdLevel;
use quire_scheduler::{CacheGroup, CachePool, MAX_TOKENS_PER_STEP};

use crate::pooling::PoolingKind;
pub use crate::speculative::SpeculativeMethod;

/// Where the model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// CUDA where this build and machine have it, else the CPU; which one is said at start.
    Auto,
    Cpu,
    Cuda(usize),
}

/// How weights are kept: `--weights`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// As quantized as the file has them, packed for integer dot products.
    Packed,
    /// Dequantized to float32 at load: the oracle for numbers, eight times the memory.
    Float32,
}

impl Weights {
    pub fn name(self) -> &'static str {
        match self {
            Self::Packed => "packed",
            Self::Float32 => "float32",
        }
    }
}

/// The type in which weights are kept that the file has as floats: `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// The file's.
    Auto,
    Float32,
    Bfloat16,
    Float16,
}

impl Dtype {
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
            Self::Float16 => "float16",
        }
    }

    /// `None`: as the file has them.
    pub fn format(self) -> Option<WeightFormat> {
        match self {
            Self::Auto => None,
            Self::Float32 => Some(WeightFormat::F32),
            Self::Bfloat16 => Some(WeightFormat::BF16),
            Self::Float16 => Some(WeightFormat::F16),
        }
    }
}

/// Element type of the KV cache: `--kv-cache-dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCacheDtype {
    /// float16, or float32 with float32 weights; bfloat16 on a GPU.
    Auto,
    F32,
    F16,
    BF16,
    /// E4M3, without scales.
    FP8,
}

/// Who runs first: `--scheduling-policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulingPolicy {
    Fcfs,
    Priority,
}

/// Speculative decoding: `--speculative` and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speculative {
    pub method: SpeculativeMethod,
    /// The most drafts of a sequence in a step, 1 to `MAX_DRAFTS`: `--num-speculative-tokens`.
    pub num_tokens: u32,
    /// Draft as many tokens as measured acceptance and cost of steps make worth while; else always `num_tokens`.
    pub is_adaptive: bool,
    /// Above 1: an EAGLE head makes a tree of drafts, and goes on from so many of its nodes at once: `--speculative-eagle-topk`.
    pub eagle_topk: u32,
    /// Nobody asked for it: plans leave it out where it may not pay.
    pub is_default: bool,
}

/// The most drafts of a sequence in a step.
pub const MAX_DRAFTS: u32 = MAX_TOKENS_PER_STEP as u32 - 1;

/// The most of `Speculative::eagle_topk`.
pub const MAX_EAGLE_TOPK: u32 = 8;

impl Speculative {
    /// With as many drafts as there may be, fewer where they do not pay.
    pub fn new(method: SpeculativeMethod) -> Self {
        Self { method, num_tokens: MAX_DRAFTS, is_adaptive: true, eagle_topk: 1, is_default: false }
    }

    /// What is done when nobody asks: prompt lookup, which costs next to nothing.
    pub fn automatic() -> Self {
        Self { is_default: true, ..Self::new(SpeculativeMethod::ngram()) }
    }
}

/// The engine's flags as typed; `None` means automatic.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Label of the metrics and first name of the model.
    pub served_model_name: String,
    pub device: DeviceChoice,
    pub weights: Weights,
    pub dtype: Dtype,
    pub activations: Activations,
    pub kv_cache_dtype: KvCacheDtype,
    /// Bytes of KV cache; default: a share of the free memory.
    pub kv_cache_memory: Option<u64>,
    /// Bytes of KV cache that ended requests leave resident before their prefixes give way; default: as much as the
    /// weights.
    pub prefix_cache_memory: Option<u64>,
    pub max_model_len: Option<u32>,
    pub max_num_seqs: Option<u32>,
    pub max_num_batched_tokens: Option<u32>,
    pub block_size: Option<u32>,
    /// Compute threads of all ranks of all replicas together.
    pub threads: Option<usize>,
    /// Ranks that share the weights and the KV cache.
    pub tensor_parallel_size: usize,
    /// Engines that run the same model beside each other, each with weights, threads and KV cache of its own.
    pub data_parallel_size: usize,
    /// How long ranks wait for each other in a step.
    pub rank_timeout: Duration,
    /// The instruction set of the CPU's ops; default: the widest of this machine.
    pub cpu_isa: Option<SimdLevel>,
    pub scheduling_policy: SchedulingPolicy,
    pub enable_prefix_caching: bool,
    /// Launch a step before the one before it has answered; default: where it is faster.
    pub async_scheduling: Option<bool>,
    /// On a GPU: launch steps op by op, without CUDA graphs.
    pub enforce_eager: bool,
    /// On a GPU: the same bits for a request whoever else is in the batch; on a CPU that is always so.
    pub batch_invariant: bool,
    pub speculative: Option<Speculative>,
    pub long_prefill_token_threshold: u32,
    pub max_num_queued_reqs: u32,
    pub max_logprobs: u32,
    pub max_token_list: usize,
    /// Left out of the model, which makes drafts of it: no flag of its own.
    pub skipped_layers: Range<usize>,
    /// Which rows embeddings are made of; default: as the model's files say.
    pub pooling: Option<PoolingKind>,
    pub faults: Faults,
}

/// What the engine runs with: every question of `EngineOptions` decided (by `MemoryPlan::new`).
#[derive(Clone, Debug)]
pub struct EngineConfig {
    pub served_model_name: String,
    /// The GPU that the model runs on; `None`: the CPU.
    pub gpu: Option<usize>,
    pub weights: Weights,
    pub dtype: Dtype,
    pub activations: Activations,
    pub kv_dtype: quire_kernels::DType,
    pub block_size: u32,
    /// What the layers keep; see `cache_layout.rs`.
    pub cache_groups: Vec<CacheGroup>,
    pub cache_pools: Vec<CachePool>,
    pub max_model_len: u32,
    pub max_num_seqs: u32,
    pub max_num_batched_tokens: u32,
    /// Compute threads of each rank.
    pub threads: usize,
    pub tensor_parallel_size: usize,
    pub data_parallel_size: usize,
    pub rank_timeout: Duration,
    pub cpu_isa: SimdLevel,
    pub scheduling_policy: SchedulingPolicy,
    pub enable_prefix_caching: bool,
    pub async_scheduling: bool,
    pub enforce_eager: bool,
    pub batch_invariant: bool,
    pub speculative: Option<Speculative>,
    pub long_prefill_token_threshold: u32,
    /// A prompt is computed in one step (encoders).
    pub computes_whole_prompts: bool,
    pub max_num_queued_reqs: u32,
    pub max_logprobs: u32,
    pub max_token_list: usize,
    pub skipped_layers: Range<usize>,
    pub faults: Faults,
}

/// What a plan decides, for `EngineConfig`.
pub(crate) struct Decisions {
    pub gpu: Option<usize>,
    pub kv_dtype: quire_kernels::DType,
    pub block_size: u32,
    pub cache_groups: Vec<CacheGroup>,
    pub cache_pools: Vec<CachePool>,
    pub max_model_len: u32,
    pub max_num_seqs: u32,
    pub max_num_batched_tokens: u32,
    pub threads: usize,
    pub tensor_parallel_size: usize,
    pub cpu_isa: SimdLevel,
    pub async_scheduling: bool,
    pub speculative: Option<Speculative>,
    pub computes_whole_prompts: bool,
}

/// Failures planted by tests: no flag sets them.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// A step that computes this token panics.
    pub panic_on_token: Option<u32>,
    /// A row that computes this token gets a logit that is not a number.
    pub nan_on_token: Option<u32>,
    /// What a rank other than the first does in the step of that number.
    pub on_other_rank: Option<(u64, RankFault)>,
}

/// How a rank fails.
#[derive(Clone, Copy, Debug)]
pub enum RankFault {
    Panic,
    Hang(Duration),
    /// Whatever the step.
    Load,
}

impl Faults {
    /// Whether a step must know its tokens on the host, one after the other.
    pub fn is_planted(&self) -> bool {
        self.panic_on_token.is_some() || self.nan_on_token.is_some()
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            served_model_name: "default".into(),
            device: DeviceChoice::Auto,
            weights: Weights::Packed,
            dtype: Dtype::Auto,
            activations: Activations::INT8,
            kv_cache_dtype: KvCacheDtype::Auto,
            kv_cache_memory: None,
            prefix_cache_memory: None,
            max_model_len: None,
            max_num_seqs: None,
            max_num_batched_tokens: None,
            block_size: None,
            threads: None,
            tensor_parallel_size: 1,
            data_parallel_size: 1,
            rank_timeout: Duration::from_secs(60),
            cpu_isa: None,
            scheduling_policy: SchedulingPolicy::Fcfs,
            enable_prefix_caching: true,
            async_scheduling: None,
            enforce_eager: false,
            batch_invariant: false,
            speculative: None,
            long_prefill_token_threshold: 0,
            max_num_queued_reqs: 1024,
            max_logprobs: 20,
            max_token_list: 4096,
            skipped_layers: 0..0,
            pooling: None,
            faults: Faults::default(),
        }
    }
}

impl EngineOptions {
    /// The defaults on the CPU, whatever the machine has.
    pub fn on_cpu() -> Self {
        Self { device: DeviceChoice::Cpu, ..Self::default() }
    }
}

impl EngineConfig {
    pub(crate) fn new(options: &EngineOptions, decided: Decisions) -> Self {
        Self {
            served_model_name: options.served_model_name.clone(),
            gpu: decided.gpu,
            weights: options.weights,
            dtype: options.dtype,
            activations: options.activations,
            kv_dtype: decided.kv_dtype,
            block_size: decided.block_size,
            cache_groups: decided.cache_groups,
            cache_pools: decided.cache_pools,
            max_model_len: decided.max_model_len,
            max_num_seqs: decided.max_num_seqs,
            max_num_batched_tokens: decided.max_num_batched_tokens,
            threads: decided.threads,
            tensor_parallel_size: decided.tensor_parallel_size,
            data_parallel_size: options.data_parallel_size,
            rank_timeout: options.rank_timeout,
            cpu_isa: decided.cpu_isa,
            scheduling_policy: options.scheduling_policy,
            // An encoder keeps nothing that a prefix could be found in.
            enable_prefix_caching: options.enable_prefix_caching && !decided.computes_whole_prompts,
            async_scheduling: decided.async_scheduling,
            enforce_eager: options.enforce_eager,
            batch_invariant: options.batch_invariant,
            speculative: decided.speculative,
            long_prefill_token_threshold: options.long_prefill_token_threshold,
            computes_whole_prompts: decided.computes_whole_prompts,
            max_num_queued_reqs: options.max_num_queued_reqs,
            max_logprobs: options.max_logprobs,
            max_token_list: options.max_token_list,
            skipped_layers: options.skipped_layers.clone(),
            faults: options.faults.clone(),
        }
    }

    /// Blocks of all pools.
    pub fn num_blocks(&self) -> u32 {
        self.cache_pools.iter().map(|pool| pool.num_blocks).sum()
    }

    /// Rows of a step that tokens are sampled from, at most.
    pub fn max_sampled_rows(&self) -> usize {
        max_sampled_rows(self.max_num_seqs, self.max_num_batched_tokens, self.speculative.as_ref())
    }
}

/// As `EngineConfig::max_sampled_rows`.
pub fn max_sampled_rows(
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    speculative: Option<&Speculative>,
) -> usize {
    let of_sequence =
        1 + speculative.map_or(0, |speculative| speculative.num_tokens.min(MAX_DRAFTS));
    (max_num_seqs.saturating_mul(of_sequence)).min(max_num_batched_tokens) as usize
}
