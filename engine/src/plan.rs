//! What a model needs, known before anything is loaded: weights, KV cache, workspace, and what fits.

use anyhow::{Context, bail, ensure};
use quire_kernels::DType;
use quire_scheduler::{CachePool, kv_capacity};

use crate::cache_layout::CacheLayout;
use crate::compute::{compute, names, num_ranks, replicas_line, threads_line};
use crate::config::{
    Decisions, EngineConfig, EngineOptions, KvCacheDtype, MAX_DRAFTS, MAX_EAGLE_TOPK, SimdLevel,
    Speculative, Weights, max_sampled_rows,
};
use crate::gpu::{self, Place};
use crate::kv_cache::KvCache;
use crate::machine::Machine;
use crate::models::{DecoderSpec, HeadSpec, ModelSpec, pooling_of, spec_of, writes_text};
use crate::pooling::PoolingSpec;
use crate::speculative::{draft_model, eagle};
use crate::weight_bytes::{weight_bytes, what_fits};
use crate::weights::{ModelFiles, Shard};
use crate::workspace::Workspace;

const DEFAULT_BLOCK_SIZE: u32 = 16;
pub(crate) const DEFAULT_MAX_NUM_SEQS: u32 = 256;
const DEFAULT_MAX_NUM_BATCHED_TOKENS: u32 = 256;
/// On a GPU, which reads all weights in the time of some hundred tokens.
const DEFAULT_MAX_NUM_BATCHED_TOKENS_ON_GPU: u32 = 2048;
/// Part of the memory left beside weights and workspace that the KV cache takes by default on a CPU.
const DEFAULT_KV_SHARE: u64 = 4;

/// Bytes of everything, and the decisions they lead to.
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    pub spec: ModelSpec,
    /// Not for embeddings alone.
    pub writes_text: bool,
    /// How embeddings are made.
    pub pooling: PoolingSpec,
    pub weight_bytes: u64,
    pub workspace_bytes: u64,
    pub kv_bytes_per_token: u64,
    pub kv_bytes: u64,
    pub cache_layout: CacheLayout,
    pub available_memory: u64,
    pub place: Place,
    /// Of the model that makes drafts.
    pub draft: Option<Box<MemoryPlan>>,
    /// The head that makes drafts.
    pub head: Option<HeadSpec>,
    /// Instruction sets of this machine, narrowest first.
    pub simd_levels: Vec<SimdLevel>,
    pub config: EngineConfig,
}

impl MemoryPlan {
    /// Decides everything that `options` leave open. Errors name the flag to change.
    pub fn new(
        files: &ModelFiles,
        options: &EngineOptions,
        machine: &Machine,
    ) -> anyhow::Result<Self> {
        let spec = spec_of(files)?;
        let pooling = pooling_of(files, &spec, options.pooling)?;
        let writes_text = writes_text(files, &spec);
        let plan = match spec {
            ModelSpec::Decoder(spec) => Self::of_decoder(files, spec, pooling, options, machine)?,
            ModelSpec::Encoder(spec) => Self::of_encoder(files, spec, pooling, options, machine)?,
        };
        Ok(Self { writes_text, ..plan })
    }

    fn of_decoder(
        files: &ModelFiles,
        mut spec: DecoderSpec,
        pooling: PoolingSpec,
        options: &EngineOptions,
        machine: &Machine,
    ) -> anyhow::Result<Self> {
        spec.layers.drain(options.skipped_layers.clone());
        let num_ranks = num_ranks(options)?;
        // Where it runs is not known yet: the first rank has no more on a CPU than on a GPU.
        let rank = spec.of_rank(Shard { num_ranks, ..Shard::WHOLE })?;
        let place = Place::find(options, &rank)?;
        let options = &with_fitting_speculation(options, &spec, &place);
        let available_memory = place.available_memory(machine, options);
        let kv_dtype = place.gpu().map_or_else(|| kv_dtype(options), |_| gpu::kv_dtype(options));
        let limits = BatchLimits::new(options, default_tokens(options, &place))?;
        let BatchLimits { max_num_seqs, max_num_batched_tokens } = limits;
        let (block_size, compute) = (block_size(options)?, compute(options, machine, &place)?);
        let head = eagle::plan((files, &spec), options, &place, limits)?;
        let kept = head.as_ref().map_or_else(|| rank.clone(), |head| head.beside(&rank));
        let weight_bytes = weight_bytes(files, spec.tied_embeddings, options, &place)?;
        let workspace_bytes = num_ranks as u64 * workspace_bytes(&rank, options, limits, &place);
        let on_gpu = place.gpu().is_some();
        let kv_bytes_per_token =
            KvCache::bytes_per_token(&kept, kv_dtype, on_gpu) * num_ranks as u64;
        let draft = draft_model::plan((files, &place), options, machine)?;
        let (of_head, cache) = ((files, &spec, head.as_ref()), (kv_dtype, block_size));
        let others = eagle::num_bytes(of_head, (options, &place), limits, cache)?
            .saturating_add(workspace_bytes)
            .saturating_add(bytes_beside(&place, draft.as_deref()));
        let rest = rest_of_memory((files, &place), available_memory, (weight_bytes, others))?;
        let wanted_len = options.max_model_len.unwrap_or(spec.context_length);
        let most_tokens = u64::from(wanted_len) * u64::from(max_num_seqs);
        let num_at_once = num_at_once(max_num_batched_tokens, options.long_prefill_token_threshold);
        let layout = CacheLayout::new(&kept, on_gpu);
        let cache =
            CachePlan { layout, dtype: kv_dtype, block_size, num_at_once, max_num_seqs, num_ranks };
        let most_useful = cache.useful_bytes(kv_bytes_per_token, most_tokens);
        let default_kv_bytes = default_kv_bytes(rest, &place).min(most_useful);
        let kv_bytes = kv_bytes(options.kv_cache_memory, rest, default_kv_bytes)?;
        // By default ended requests at most double what the model takes, whatever its size.
        let resident_bytes = options.prefix_cache_memory.unwrap_or(weight_bytes);
        let cache_pools = cache.pools(kv_bytes, resident_bytes, wanted_len)?;
        let max_model_len = max_model_len(options, &spec, cache.capacity(&cache_pools))?;
        let config = EngineConfig::new(
            options,
            Decisions {
                gpu: place.gpu().map(|gpu| gpu.ordinal),
                kv_dtype,
                block_size,
                cache_groups: cache.layout.groups.clone(),
                cache_pools,
                max_model_len,
                max_num_seqs,
                max_num_batched_tokens,
                threads: compute.threads,
                tensor_parallel_size: num_ranks,
                cpu_isa: compute.cpu_isa,
                async_scheduling: is_overlapped(options, &place),
                speculative: speculative(options)?,
                computes_whole_prompts: false,
            },
        );
        Ok(Self {
            weight_bytes,
            workspace_bytes,
            kv_bytes_per_token,
            kv_bytes: cache.num_bytes(&config.cache_pools),
            cache_layout: cache.layout,
            available_memory,
            place,
            draft,
            head,
            simd_levels: machine.simd_levels.clone(),
            spec: ModelSpec::Decoder(spec),
            writes_text: true,
            pooling,
            config,
        })
    }

    /// Weights, workspace and KV cache.
    fn num_bytes(&self) -> u64 {
        self.weight_bytes.saturating_add(self.workspace_bytes).saturating_add(self.kv_bytes)
    }

    /// What the model takes with all that belongs to it: the draft model too, of each of several replicas.
    pub fn total_bytes(&self) -> u64 {
        let draft = self.draft.as_deref().map_or(0, Self::num_bytes);
        let replicas = self.config.data_parallel_size.max(1) as u64;
        self.num_bytes().saturating_add(draft).saturating_mul(replicas)
    }

    /// Name and value of every line that `serve` and `plan` print.
    pub fn table(&self) -> Vec<(&'static str, String)> {
        let (spec, config) = (&self.spec, &self.config);
        if spec.is_encoder() {
            return self.encoder_table();
        }
        vec![
            ("device", self.place.line()),
            ("architecture", format!("{}, {} layers", spec.architecture(), spec.num_layers())),
            ("weights", self.weights_line()),
            ("workspace", human_bytes(self.workspace_bytes)),
            ("KV cache", self.kv_cache_line()),
            ("prefix cache", self.prefix_cache_line()),
            ("KV per token", human_bytes(self.kv_bytes_per_token)),
            (
                "KV per sequence",
                format!(
                    "{} at {} tokens",
                    human_bytes(self.kv_bytes_per_sequence()),
                    config.max_model_len
                ),
            ),
            (
                "context",
                format!("{} tokens (model: {})", config.max_model_len, spec.context_length()),
            ),
            ("whole contexts", format!("{} fit at once", self.num_whole_contexts())),
            (
                "batch",
                format!(
                    "{} sequences, {} tokens a step",
                    config.max_num_seqs, config.max_num_batched_tokens
                ),
            ),
            ("speculation", self.speculation_line()),
            ("memory free", human_bytes(self.available_memory)),
            ("compute threads", threads_line(config)),
            ("replicas", replicas_line(config)),
            ("instruction set", self.isa_line()),
        ]
    }

    pub(crate) fn weights_line(&self) -> String {
        let (bytes, config) = (human_bytes(self.weight_bytes), &self.config);
        let weights = config.weights.name();
        match config.weights {
            Weights::Packed if config.gpu.is_some() => format!("{bytes} (bf16)"),
            Weights::Packed => format!("{bytes} ({weights}, {} activations)", config.activations),
            Weights::Float32 => format!("{bytes} ({weights})"),
        }
    }

    /// Which instruction set is used, and why.
    pub(crate) fn isa_line(&self) -> String {
        let (used, levels) = (self.config.cpu_isa, &self.simd_levels);
        match levels.last() {
            Some(&widest) if widest != used => {
                format!("{} (--cpu-isa; this machine has {})", used.name(), names(levels))
            }
            _ => format!("{} (the widest of {})", used.name(), names(levels)),
        }
    }

    fn prefix_cache_line(&self) -> String {
        let config = &self.config;
        if !config.enable_prefix_caching {
            return "off".into();
        }
        let cache = self.cache();
        let resident = |pool: &CachePool| u64::from(pool.num_resident_blocks);
        let bytes = cache.bytes_per_block().into_iter().zip(&config.cache_pools);
        let bytes = bytes.map(|(bytes, pool)| bytes * resident(pool)).sum();
        format!("{} of the KV cache, more when prompts come back", human_bytes(bytes))
    }

    fn kv_cache_line(&self) -> String {
        let config = &self.config;
        let (bytes, dtype) = (human_bytes(self.kv_bytes), dtype_name(config.kv_dtype));
        let (layout, block_size) = (&self.cache_layout, config.block_size);
        let num_blocks = layout.num_pages(&config.cache_pools);
        let tokens = match layout.pools.len() {
            1 => u64::from(num_blocks) * u64::from(block_size),
            // Of what one sequence can have.
            _ => u64::from(self.cache().capacity(&config.cache_pools)),
        };
        let blocks = format!("{bytes} = {num_blocks} blocks of {block_size} tokens");
        match (layout.keeps_everything(), layout.num_states(&config.cache_pools)) {
            (true, _) => format!("{blocks}, {tokens} tokens in {dtype}"),
            (false, None) => format!("{blocks} in {dtype}; {}", layout.summary()),
            (false, Some(num_states)) => {
                let state = human_bytes(layout.state_bytes(&self.cache().bytes_per_block()));
                let states = format!("{num_states} states of {state}");
                format!("{blocks} in {dtype}, {states}; {}", layout.summary())
            }
        }
    }

    fn speculation_line(&self) -> String {
        let Some(speculative) = &self.config.speculative else { return "off".into() };
        let how = if speculative.is_adaptive { "up to" } else { "always" };
        let line =
            format!("{}, {how} {} tokens a step", speculative.method, speculative.num_tokens);
        let Some(draft) = &self.draft else { return line };
        let bytes = human_bytes(draft.num_bytes());
        format!("{line}, {bytes} for texts of up to {} tokens", draft.config.max_model_len)
    }

    /// What a sequence of the longest length holds while it runs.
    fn kv_bytes_per_sequence(&self) -> u64 {
        let cache = self.cache();
        let held = cache.blocks_held(self.config.max_model_len);
        held.iter().zip(cache.bytes_per_block()).map(|(blocks, bytes)| blocks * bytes).sum()
    }

    fn num_whole_contexts(&self) -> u64 {
        let held = self.cache().blocks_held(self.config.max_model_len);
        let pools = self.config.cache_pools.iter().zip(held).filter(|(_, held)| *held > 0);
        pools.map(|(pool, held)| u64::from(pool.num_blocks) / held).min().unwrap_or(0)
    }

    fn cache(&self) -> CachePlan {
        let config = &self.config;
        CachePlan {
            layout: self.cache_layout.clone(),
            dtype: config.kv_dtype,
            block_size: config.block_size,
            num_at_once: num_at_once(
                config.max_num_batched_tokens,
                config.long_prefill_token_threshold,
            ),
            max_num_seqs: config.max_num_seqs,
            num_ranks: config.tensor_parallel_size,
        }
    }
}

/// The most tokens of one sequence in a step.
fn num_at_once(max_num_batched_tokens: u32, long_prefill_token_threshold: u32) -> u32 {
    match long_prefill_token_threshold {
        0 => max_num_batched_tokens,
        threshold => threshold.min(max_num_batched_tokens),
    }
}

/// What the size of the KV cache follows from.
struct CachePlan {
    layout: CacheLayout,
    dtype: DType,
    block_size: u32,
    /// The most tokens of one sequence in a step.
    num_at_once: u32,
    max_num_seqs: u32,
    num_ranks: usize,
}

impl CachePlan {
    fn bytes_per_block(&self) -> Vec<u64> {
        let of_rank = self.layout.bytes_per_block(self.dtype, self.block_size);
        of_rank.into_iter().map(|bytes| bytes * self.num_ranks as u64).collect()
    }

    /// Blocks of each pool that a sequence holds.
    fn blocks_held(&self, num_tokens: u32) -> Vec<u64> {
        self.layout.blocks_held(num_tokens, self.num_at_once, self.block_size)
    }

    /// Pools of `kv_bytes` together, at least two blocks a group.
    fn pools(
        &self,
        kv_bytes: u64,
        resident_bytes: u64,
        max_tokens: u32,
    ) -> anyhow::Result<Vec<CachePool>> {
        let bytes_per_block = self.bytes_per_block();
        let lengths = (max_tokens, self.num_at_once, self.block_size);
        let num_blocks =
            self.layout.num_blocks(kv_bytes, &bytes_per_block, lengths, self.max_num_seqs);
        let one_each = self.blocks_held(1);
        for ((&blocks, &bytes), &groups) in num_blocks.iter().zip(&bytes_per_block).zip(&one_each) {
            let least: u64 = bytes_per_block.iter().zip(&one_each).map(|(b, n)| 2 * b * n).sum();
            // States get half of it at most.
            let least = if self.layout.recurrent_group().is_some() { 2 * least } else { least };
            ensure!(
                u64::from(blocks) >= 2 * groups,
                "a KV cache of {} holds {blocks} blocks of {}; give at least {} with \
                 --kv-cache-memory",
                human_bytes(kv_bytes),
                human_bytes(bytes),
                human_bytes(least)
            );
        }
        Ok(CacheLayout::pools(&num_blocks, &bytes_per_block, resident_bytes))
    }

    /// Bytes of so many tokens and of all states that are of use.
    fn useful_bytes(&self, kv_bytes_per_token: u64, most_tokens: u64) -> u64 {
        let state = self.layout.state_bytes(&self.bytes_per_block());
        let states = state.saturating_mul(CacheLayout::useful_states(self.max_num_seqs));
        kv_bytes_per_token.saturating_mul(most_tokens).saturating_add(states)
    }

    /// Tokens that one sequence can have.
    fn capacity(&self, pools: &[CachePool]) -> u32 {
        let capacity = kv_capacity(&self.layout.groups, pools, self.num_at_once, self.block_size);
        capacity.min(u32::MAX.into()) as u32
    }

    fn num_bytes(&self, pools: &[CachePool]) -> u64 {
        let bytes = self.bytes_per_block().into_iter().zip(pools);
        bytes.map(|(bytes, pool)| bytes * u64::from(pool.num_blocks)).sum()
    }
}

/// Element type of the KV cache on the CPU.
pub(crate) fn kv_dtype(options: &EngineOptions) -> DType {
    match (options.kv_cache_dtype, options.weights) {
        (KvCacheDtype::F32, _) | (KvCacheDtype::Auto, Weights::Float32) => DType::F32,
        (KvCacheDtype::F16, _) | (KvCacheDtype::Auto, Weights::Packed) => DType::F16,
        (KvCacheDtype::BF16, _) => DType::BF16,
        (KvCacheDtype::FP8, _) => DType::F8E4M3,
    }
}

fn at_least_one(flag: &str, asked: Option<u32>, default: u32) -> anyhow::Result<u32> {
    match asked {
        Some(0) => bail!("{flag} must be at least 1"),
        Some(value) => Ok(value),
        None => Ok(default),
    }
}

/// Sequences and tokens of a step: each running sequence gets a token in each step, so tokens bound sequences.
#[derive(Clone, Copy)]
pub(crate) struct BatchLimits {
    pub max_num_seqs: u32,
    pub max_num_batched_tokens: u32,
}

impl BatchLimits {
    /// As the flags say; `default_tokens` where they leave the tokens open.
    pub(crate) fn new(options: &EngineOptions, default_tokens: u32) -> anyhow::Result<Self> {
        let (flag, asked) = ("--max-num-batched-tokens", options.max_num_batched_tokens);
        let tokens = at_least_one(flag, asked, default_tokens)?;
        let seqs =
            at_least_one("--max-num-seqs", options.max_num_seqs, DEFAULT_MAX_NUM_SEQS.min(tokens))?;
        ensure!(seqs <= tokens, "{flag} {tokens} is below --max-num-seqs {seqs}");
        ensure!(tokens <= 1 << 20, "{flag} {tokens} is above {}", 1 << 20);
        Ok(Self { max_num_seqs: seqs, max_num_batched_tokens: tokens })
    }
}

pub(crate) fn block_size(options: &EngineOptions) -> anyhow::Result<u32> {
    let block_size = at_least_one("--block-size", options.block_size, DEFAULT_BLOCK_SIZE)?;
    ensure!(block_size <= 1024, "--block-size {block_size} is above 1024");
    Ok(block_size)
}

/// What a draft model takes of the memory that its target has: it lies on the first of the target's GPUs, and as much
/// stays free on the others.
fn bytes_beside(place: &Place, draft: Option<&MemoryPlan>) -> u64 {
    let (ordinal, num_devices) =
        place.gpu().map_or((None, 1), |gpu| (Some(gpu.ordinal), gpu.num_ranks));
    let draft = draft.filter(|draft| draft.config.gpu == ordinal);
    draft.map_or(0, MemoryPlan::num_bytes).saturating_mul(num_devices as u64)
}

/// What weights, workspace and draft model leave of the memory, if they fit.
fn rest_of_memory(
    (files, place): (&ModelFiles, &Place),
    available: u64,
    (weight_bytes, other_bytes): (u64, u64),
) -> anyhow::Result<u64> {
    let need = weight_bytes.saturating_add(other_bytes);
    available.checked_sub(need).with_context(|| {
        let for_weights = available.saturating_sub(other_bytes);
        let or = if for_weights == 0 { ", or lower --max-num-batched-tokens" } else { "" };
        format!(
            "the model needs {} for weights and workspace, but {} is free{}; {}{or}",
            human_bytes(need),
            human_bytes(available),
            place.on_which(),
            what_fits(files, for_weights)
        )
    })
}

/// Tokens of a step where nobody says: as many as sequences at least.
fn default_tokens(options: &EngineOptions, place: &Place) -> u32 {
    let default = match place {
        Place::Cpu { .. } => DEFAULT_MAX_NUM_BATCHED_TOKENS,
        Place::Gpu(_) => DEFAULT_MAX_NUM_BATCHED_TOKENS_ON_GPU,
    };
    default.max(options.max_num_seqs.unwrap_or(0))
}

/// Whether a step must know the tokens of the one before: those that drafts follow, or that planted faults look at.
fn is_awaited(options: &EngineOptions) -> bool {
    options.speculative.is_some() || options.faults.is_planted()
}

/// On a CPU the loop's work is far smaller than a step, and each ended answer would cost a wasted row.
fn is_overlapped(options: &EngineOptions, place: &Place) -> bool {
    match place {
        Place::Cpu { .. } => options.async_scheduling.unwrap_or(false),
        Place::Gpu(_) => options.async_scheduling.unwrap_or(true) && !is_awaited(options),
    }
}

fn workspace_bytes(
    spec: &DecoderSpec,
    options: &EngineOptions,
    BatchLimits { max_num_seqs, max_num_batched_tokens }: BatchLimits,
    place: &Place,
) -> u64 {
    let speculative = options.speculative.as_ref();
    let sampled_rows = max_sampled_rows(max_num_seqs, max_num_batched_tokens, speculative);
    let sampler_bytes = gpu::sampler_bytes(spec, options, place, max_num_seqs);
    Workspace::num_bytes(spec, max_num_batched_tokens as usize, sampled_rows, place.activations())
        .saturating_add(sampler_bytes)
}

/// `options` without a speculation that nobody asked for where it may not pay: GPUs lose the overlap of steps, and recurrent
/// layers keep a state for each draft.
fn with_fitting_speculation(
    options: &EngineOptions,
    spec: &DecoderSpec,
    place: &Place,
) -> EngineOptions {
    let mut options = options.clone();
    let is_overlapped = options.async_scheduling == Some(true);
    let is_recurrent = spec.layers.iter().any(|layer| layer.is_recurrent);
    if is_overlapped || is_recurrent || place.gpu().is_some() {
        options.speculative.take_if(|speculative| speculative.is_default);
    }
    options
}

/// What `--speculative` asks for, if it can be done.
fn speculative(options: &EngineOptions) -> anyhow::Result<Option<Speculative>> {
    let Some(speculative) = &options.speculative else { return Ok(None) };
    let num_tokens = speculative.num_tokens;
    ensure!(
        (1..=MAX_DRAFTS).contains(&num_tokens),
        "--num-speculative-tokens {num_tokens} is not between 1 and {MAX_DRAFTS}"
    );
    ensure!(
        options.async_scheduling != Some(true),
        "--async-scheduling prepares a step before the tokens are known that --speculative goes on from: \
         leave one of them out"
    );
    let topk = speculative.eagle_topk;
    ensure!(
        (1..=MAX_EAGLE_TOPK).contains(&topk),
        "--speculative-eagle-topk {topk} is not between 1 and {MAX_EAGLE_TOPK}"
    );
    ensure!(
        topk == 1 || speculative.method.of(&eagle::EAGLE).is_some(),
        "--speculative-eagle-topk {topk} is for --speculative eagle:PATH, not for {}",
        speculative.method
    );
    Ok(Some(speculative.clone()))
}

/// A part of the `rest` of memory: of a GPU, which has nothing else to do, most of it.
fn default_kv_bytes(rest: u64, place: &Place) -> u64 {
    match place {
        Place::Cpu { .. } => rest / DEFAULT_KV_SHARE,
        Place::Gpu(_) => rest / 10 * 9,
    }
}

/// Bytes of the KV cache: those asked for, if they fit the `rest` of memory.
fn kv_bytes(asked: Option<u64>, rest: u64, default: u64) -> anyhow::Result<u64> {
    match asked {
        Some(bytes) if bytes > rest => bail!(
            "--kv-cache-memory asks for {}, but {} is free beside the weights",
            human_bytes(bytes),
            human_bytes(rest)
        ),
        Some(bytes) => Ok(bytes),
        None => Ok(default),
    }
}

fn max_model_len(
    options: &EngineOptions,
    spec: &DecoderSpec,
    kv_tokens: u32,
) -> anyhow::Result<u32> {
    match options.max_model_len {
        None => Ok(spec.context_length.min(kv_tokens)),
        Some(len) if len < 2 => bail!("--max-model-len must be at least 2"),
        Some(len) if len > spec.context_length => bail!(
            "--max-model-len {len} is above the model's context length of {}",
            spec.context_length
        ),
        Some(len) if len > kv_tokens => bail!(
            "--max-model-len {len} does not fit the KV cache of {kv_tokens} tokens; \
             raise --kv-cache-memory or lower --max-model-len"
        ),
        Some(len) => Ok(len),
    }
}

pub(crate) fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        DType::F8E4M3 => "fp8 (E4M3)",
        DType::U8 => "uint8",
        DType::U32 => "uint32",
    }
}

/// "92.1 MiB".
pub fn human_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}
