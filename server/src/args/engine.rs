//! The flags that decide how a model runs, the same for each command that loads one.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use quire_engine::config::{
    Activations, DeviceChoice, Dtype, KvCacheDtype, MAX_DRAFTS, SchedulingPolicy, SimdLevel,
    Speculative, SpeculativeMethod, WeightFormat, Weights,
};
use quire_engine::{EngineOptions, PoolingKind};

use super::units;

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Model and memory")]
pub(crate) struct EngineArgs {
    /// Where to run: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_parser = units::device)]
    device: DeviceChoice,

    /// Where weights come from: auto reads them; dummy makes random ones for a config.json, in BF16 or as
    /// dummy:Q4_K in a format of GGUF, to measure with
    #[arg(long, default_value = "auto", value_parser = units::load_format, value_name = "FORMAT")]
    load_format: LoadFormat,

    /// How to keep weights: as quantized as the file has them, or as float32
    #[arg(long, value_enum, default_value = "packed")]
    weights: WeightsFlag,

    /// The type in which weights are kept that are floats in the file; auto is the file's, but F16 becomes BF16 where the
    /// CPU multiplies that directly (avx512-bf16)
    #[arg(long, value_enum, default_value = "auto")]
    dtype: DtypeFlag,

    /// How exactly activations meet packed weights: int8 is fastest (bf16 where weights are floats and the CPU has
    /// avx512-bf16), int16 as good as float32, mixed between; or the layers that get int16, of
    /// q,k,v,attn_output,gate_up,down,head
    #[arg(long, default_value = "int8", value_name = "PRECISION")]
    activations: Activations,

    /// Element type of the KV cache; auto is f16, f32 with --weights float32, bf16 on a GPU; fp8 (E4M3) keeps twice
    /// as many tokens and changes answers a little
    #[arg(long, value_enum, default_value = "auto")]
    kv_cache_dtype: KvCacheDtypeFlag,

    /// The longest prompt and answer together, as 8192, 8k or 8K [default: the model's own]
    #[arg(long, value_parser = units::tokens, value_name = "TOKENS")]
    max_model_len: Option<u32>,

    /// Requests that run at once [default: 256, or the tokens of a step where those are fewer]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    max_num_seqs: Option<u32>,

    /// Tokens computed in one step, of all requests together [default: 256, on GPUs 2048]
    #[arg(long, value_parser = units::tokens, value_name = "TOKENS")]
    max_num_batched_tokens: Option<u32>,

    /// Memory for the KV cache, as 512MiB or 4G [default: a share of what is free]
    #[arg(long, visible_alias = "kv-cache-memory-bytes", value_parser = units::bytes, value_name = "BYTES")]
    kv_cache_memory: Option<u64>,

    /// What ended requests may keep of the KV cache while nobody asks for it again; grows by what is
    /// asked for too late [default: as much as the weights]
    #[arg(long, value_parser = units::bytes, value_name = "BYTES")]
    prefix_cache_memory: Option<u64>,

    /// Tokens in one block of the KV cache [default: 16]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024), value_name = "TOKENS")]
    block_size: Option<u32>,

    /// CPU threads that compute [default: one a core]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096), value_name = "COUNT")]
    threads: Option<u32>,

    /// Ranks that share the weights and the work of each step; each has as many of the threads
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256), value_name = "COUNT", default_value = "1")]
    tensor_parallel_size: u16,

    /// Engines beside each other behind one queue, each with the weights, a KV cache of the size asked for and a share of the
    /// threads; a request goes where its beginning is cached and least is to be done
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "COUNT", default_value = "1")]
    data_parallel_size: u16,

    /// How long the ranks wait for one of them in a step before the engine gives up
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = units::seconds)]
    rank_timeout: Duration,

    /// The instruction set that the CPU's kernels use; auto is the widest of this machine
    #[arg(long, value_enum, default_value = "auto")]
    cpu_isa: CpuIsaFlag,

    /// Who runs first: first come, first served, or the lowest `priority`
    #[arg(long, value_enum, default_value = "fcfs")]
    scheduling_policy: SchedulingPolicyFlag,

    /// Keep computed prompts for requests that begin alike [default: on; --no-enable-prefix-caching: off]
    #[arg(long, overrides_with = "no_enable_prefix_caching")]
    enable_prefix_caching: bool,

    #[arg(long, hide = true, overrides_with = "enable_prefix_caching")]
    no_enable_prefix_caching: bool,

    /// Prepare a step while the one before it runs [default: on GPUs; --no-async-scheduling: never]
    #[arg(long, overrides_with = "no_async_scheduling")]
    async_scheduling: bool,

    #[arg(long, hide = true, overrides_with = "async_scheduling")]
    no_async_scheduling: bool,

    /// On a GPU: launch the operations of each step one by one, not as CUDA graphs
    #[arg(long)]
    enforce_eager: bool,

    /// On a GPU: a request gets the same bits whoever else is in the batch, which costs time (on a CPU that is always so)
    #[arg(long)]
    batch_invariant: bool,

    /// Guess tokens and verify several in one step, which changes no answer, and is done only while it pays: ngram guesses
    /// what followed the same tokens earlier in the text, draft:PATH asks a smaller model with the same vocabulary,
    /// eagle:PATH an EAGLE head of the model or a DFlash drafter, skip:4-8 the model without its layers 4 to 8; off: no
    /// guesses [default: ngram on CPUs, but for models with recurrent layers and with --async-scheduling]
    #[arg(long, value_name = "METHOD")]
    speculative: Option<SpeculativeFlag>,

    /// The most guesses of a request in a step; fewer where they do not pay
    #[arg(long, default_value_t = MAX_DRAFTS, value_name = "COUNT")]
    num_speculative_tokens: u32,

    /// With an EAGLE head: guess a tree of tokens, following so many of them at once; 1: one after the other
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    speculative_eagle_topk: u32,

    /// Take every guess, whether it pays or not
    #[arg(long, requires = "speculative")]
    speculative_always: bool,

    /// Prompt tokens that one request gets in a step; 0: no limit of its own
    #[arg(long, default_value_t = 0, value_name = "TOKENS")]
    long_prefill_token_threshold: u32,

    /// Requests that may wait; more are answered with 503
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    max_num_queued_reqs: u32,

    /// The most log probabilities that a request may ask for at each token
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    max_logprobs: u32,

    /// Entries in each token list of a request (logit_bias, stop_token_ids, …)
    #[arg(long, default_value_t = 4096, value_name = "COUNT")]
    max_token_list: usize,

    /// Which tokens an embedding is made of: cls (the first), mean or last [default: as the model's files say]
    #[arg(long, value_name = "KIND")]
    pooling: Option<PoolingKind>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DtypeFlag {
    Auto,
    #[value(alias = "float")]
    Float32,
    Bfloat16,
    #[value(alias = "half")]
    Float16,
}

/// Where weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadFormat {
    Auto,
    Dummy(WeightFormat),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WeightsFlag {
    Packed,
    Float32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CpuIsaFlag {
    Auto,
    Avx512Bf16,
    Avx512,
    AvxVnni,
    Avx2,
    Portable,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KvCacheDtypeFlag {
    Auto,
    #[value(alias = "float32")]
    F32,
    #[value(alias = "float16")]
    F16,
    #[value(alias = "bfloat16")]
    Bf16,
    #[value(alias = "fp8_e4m3")]
    Fp8,
}

/// `--speculative`; `None`: off.
#[derive(Clone, Debug)]
struct SpeculativeFlag(Option<SpeculativeMethod>);

impl FromStr for SpeculativeFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let method = text.parse().map_err(|error| format!("{error}; off: no guesses"))?;
        Ok(Self(Some(method)))
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SchedulingPolicyFlag {
    Fcfs,
    Priority,
}

impl EngineArgs {
    pub(crate) fn load_format(&self) -> LoadFormat {
        self.load_format
    }

    /// The engine's options; the model's name is the caller's to set.
    pub(crate) fn resolve(&self) -> EngineOptions {
        EngineOptions {
            device: self.device,
            weights: match self.weights {
                WeightsFlag::Packed => Weights::Packed,
                WeightsFlag::Float32 => Weights::Float32,
            },
            dtype: match self.dtype {
                DtypeFlag::Auto => Dtype::Auto,
                DtypeFlag::Float32 => Dtype::Float32,
                DtypeFlag::Bfloat16 => Dtype::Bfloat16,
                DtypeFlag::Float16 => Dtype::Float16,
            },
            activations: self.activations,
            kv_cache_dtype: match self.kv_cache_dtype {
                KvCacheDtypeFlag::Auto => KvCacheDtype::Auto,
                KvCacheDtypeFlag::F32 => KvCacheDtype::F32,
                KvCacheDtypeFlag::F16 => KvCacheDtype::F16,
                KvCacheDtypeFlag::Bf16 => KvCacheDtype::BF16,
                KvCacheDtypeFlag::Fp8 => KvCacheDtype::FP8,
            },
            kv_cache_memory: self.kv_cache_memory,
            prefix_cache_memory: self.prefix_cache_memory,
            max_model_len: self.max_model_len,
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            block_size: self.block_size,
            threads: self.threads.map(|threads| threads as usize),
            tensor_parallel_size: self.tensor_parallel_size.into(),
            data_parallel_size: self.data_parallel_size.into(),
            rank_timeout: self.rank_timeout,
            cpu_isa: match self.cpu_isa {
                CpuIsaFlag::Auto => None,
                CpuIsaFlag::Avx512Bf16 => Some(SimdLevel::Avx512Bf16),
                CpuIsaFlag::Avx512 => Some(SimdLevel::Avx512),
                CpuIsaFlag::AvxVnni => Some(SimdLevel::AvxVnni),
                CpuIsaFlag::Avx2 => Some(SimdLevel::Avx2),
                CpuIsaFlag::Portable => Some(SimdLevel::Portable),
            },
            scheduling_policy: match self.scheduling_policy {
                SchedulingPolicyFlag::Fcfs => SchedulingPolicy::Fcfs,
                SchedulingPolicyFlag::Priority => SchedulingPolicy::Priority,
            },
            enable_prefix_caching: !self.no_enable_prefix_caching,
            async_scheduling: match (self.async_scheduling, self.no_async_scheduling) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            },
            enforce_eager: self.enforce_eager,
            batch_invariant: self.batch_invariant,
            speculative: self.speculative(),
            long_prefill_token_threshold: self.long_prefill_token_threshold,
            max_num_queued_reqs: self.max_num_queued_reqs,
            max_logprobs: self.max_logprobs,
            max_token_list: self.max_token_list,
            pooling: self.pooling,
            ..EngineOptions::default()
        }
    }

    fn speculative(&self) -> Option<Speculative> {
        let chosen = match &self.speculative {
            None => Speculative::automatic(),
            Some(SpeculativeFlag(method)) => Speculative::new(method.clone()?),
        };
        Some(Speculative {
            num_tokens: self.num_speculative_tokens,
            is_adaptive: !self.speculative_always,
            eagle_topk: self.speculative_eagle_topk,
            ..chosen
        })
    }
}
