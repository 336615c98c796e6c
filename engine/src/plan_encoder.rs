//! The plan of an encoder: no KV cache, but keys and values of one step, which computes whole texts.

use anyhow::{bail, ensure};
use quire_kernels::DType;
use quire_scheduler::CachePool;

use crate::cache_layout::CacheLayout;
use crate::compute::compute;
use crate::config::{Decisions, EngineConfig, EngineOptions, KvCacheDtype};
use crate::gpu::{self, Place};
use crate::machine::Machine;
use crate::models::{EncoderSpec, ModelSpec};
use crate::plan::{BatchLimits, MemoryPlan, block_size, dtype_name, human_bytes, kv_dtype};
use crate::pooling::PoolingSpec;
use crate::weight_bytes::{weight_bytes, what_fits};
use crate::weights::ModelFiles;
use crate::workspace::Workspace;

/// Tokens of a step, of models whose texts are not longer.
const DEFAULT_MAX_NUM_BATCHED_TOKENS: u32 = 512;

impl MemoryPlan {
    pub(crate) fn of_encoder(
        files: &ModelFiles,
        spec: EncoderSpec,
        pooling: PoolingSpec,
        options: &EngineOptions,
        machine: &Machine,
    ) -> anyhow::Result<Self> {
        let place = Place::of_encoder(options, &spec)?;
        let available_memory = place.available_memory(machine, options);
        let max_model_len = max_model_len(options, &spec)?;
        let BatchLimits { max_num_seqs, max_num_batched_tokens } =
            batch_limits(options, max_model_len)?;
        let (block_size, compute) = (block_size(options)?, compute(options, machine, &place)?);
        ensure!(
            compute.num_ranks == 1,
            "--tensor-parallel-size {}: an encoder runs on one rank",
            compute.num_ranks
        );
        let kv_dtype = kv_dtype_of_step(options, &place);
        let layout = CacheLayout::of_encoder(&spec);
        // A GPU's steps run on the thread that opened it, and nothing follows a text's one step.
        let async_scheduling = options.async_scheduling.unwrap_or(false) && place.gpu().is_none();
        // Each text has a last block that is not full; with a step in flight another's are taken already.
        let of_step = max_num_batched_tokens.div_ceil(block_size) + max_num_seqs;
        let num_blocks = of_step * if async_scheduling { 2 } else { 1 };
        let bytes_per_block: u64 = layout.bytes_per_block(kv_dtype, block_size).iter().sum();
        let kv_bytes = bytes_per_block * u64::from(num_blocks);
        let weight_bytes = weight_bytes(files, false, options, &place)?;
        let (tokens, seqs) = (max_num_batched_tokens as usize, max_num_seqs as usize);
        let workspace_bytes = Workspace::encoder_bytes(&spec, tokens, seqs, place.activations());
        let need = weight_bytes.saturating_add(workspace_bytes).saturating_add(kv_bytes);
        if need > available_memory {
            bail!(
                "the model needs {} for weights and workspace, but {} is free{}; {}, or lower \
                 --max-num-batched-tokens",
                human_bytes(need),
                human_bytes(available_memory),
                place.on_which(),
                what_fits(files, available_memory.saturating_sub(need - weight_bytes))
            );
        }
        let config = EngineConfig::new(
            options,
            Decisions {
                gpu: place.gpu().map(|gpu| gpu.ordinal),
                kv_dtype,
                block_size,
                cache_groups: layout.groups.clone(),
                cache_pools: vec![CachePool { num_blocks, num_resident_blocks: num_blocks }],
                max_model_len,
                max_num_seqs,
                max_num_batched_tokens,
                threads: compute.threads,
                tensor_parallel_size: 1,
                cpu_isa: compute.cpu_isa,
                async_scheduling,
                speculative: None,
                computes_whole_prompts: true,
            },
        );
        Ok(Self {
            spec: ModelSpec::Encoder(spec),
            writes_text: false,
            pooling,
            weight_bytes,
            workspace_bytes,
            kv_bytes_per_token: 0,
            kv_bytes,
            cache_layout: layout,
            available_memory,
            place,
            draft: None,
            head: None,
            simd_levels: machine.simd_levels.clone(),
            config,
        })
    }

    /// As `table`, of an encoder.
    pub(crate) fn encoder_table(&self) -> Vec<(&'static str, String)> {
        let (spec, config) = (&self.spec, &self.config);
        let kept = format!(
            "{} of one step, in {}; nothing is kept",
            human_bytes(self.kv_bytes),
            dtype_name(config.kv_dtype)
        );
        let pooled = self.pooling.kind.name();
        let length = if self.pooling.normalize { ", of length 1" } else { "" };
        vec![
            ("device", self.place.line()),
            ("architecture", format!("{}, {} layers", spec.architecture(), spec.num_layers())),
            ("weights", self.weights_line()),
            ("workspace", human_bytes(self.workspace_bytes)),
            ("keys and values", kept),
            match self.pooling.scores {
                None => {
                    ("embeddings", format!("{} channels ({pooled}){length}", spec.hidden_size()))
                }
                Some(_) => ("scores", format!("one a pair of texts ({pooled}): a reranker")),
            },
            (
                "context",
                format!("{} tokens (model: {})", config.max_model_len, spec.context_length()),
            ),
            (
                "batch",
                format!(
                    "{} texts, {} tokens a step",
                    config.max_num_seqs, config.max_num_batched_tokens
                ),
            ),
            ("memory free", human_bytes(self.available_memory)),
            ("compute threads", config.threads.to_string()),
            ("instruction set", self.isa_line()),
        ]
    }
}

/// Element type of keys and values, which live for a step alone: little is saved by rounding them.
fn kv_dtype_of_step(options: &EngineOptions, place: &Place) -> DType {
    match options.kv_cache_dtype {
        _ if place.gpu().is_some() => gpu::kv_dtype(options),
        KvCacheDtype::Auto => DType::F32,
        _ => kv_dtype(options),
    }
}

/// Tokens of a step: at least those of the longest text.
fn batch_limits(options: &EngineOptions, max_model_len: u32) -> anyhow::Result<BatchLimits> {
    let limits = BatchLimits::new(options, DEFAULT_MAX_NUM_BATCHED_TOKENS.max(max_model_len))?;
    let tokens = limits.max_num_batched_tokens;
    ensure!(
        tokens >= max_model_len,
        "--max-num-batched-tokens {tokens} is below the {max_model_len} tokens that a text may have, and an \
         encoder computes a text in one step: raise it, or lower --max-model-len"
    );
    ensure!(
        options.long_prefill_token_threshold == 0,
        "--long-prefill-token-threshold cuts texts, which an encoder computes whole; leave it out"
    );
    ensure!(
        options.speculative.as_ref().is_none_or(|speculative| speculative.is_default),
        "--speculative guesses tokens, and this model writes none; leave it out"
    );
    Ok(limits)
}

fn max_model_len(options: &EngineOptions, spec: &EncoderSpec) -> anyhow::Result<u32> {
    match options.max_model_len {
        None => Ok(spec.context_length),
        Some(0) => bail!("--max-model-len must be at least 1"),
        Some(len) if len > spec.context_length => bail!(
            "--max-model-len {len} is above the model's context length of {}",
            spec.context_length
        ),
        Some(len) => Ok(len),
    }
}
