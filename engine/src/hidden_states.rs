//! The residual stream of one prompt, layer by layer: for tests that name the layer where numbers go wrong. Nothing here is
//! on the way of a request.

use anyhow::{Context, ensure};
use quire_kernels::{Device, NO_STATE, StateBatch, StateSegment, WeightPolicy};

use crate::cache_layout::CacheLayout;
use crate::config::{EngineOptions, Weights};
use crate::kv_cache::KvCache;
use crate::machine::Machine;
use crate::models::Decoder;
use crate::plan::MemoryPlan;
use crate::step_input::{GroupInputs, StepInput};
use crate::weights::{ModelFiles, WeightLoader};
use crate::workspace::Workspace;

/// Of the last token of `prompt`, computed in one step, on a CPU by one thread: what each layer is given, and in the end what the last
/// layer leaves after the final norm; `[num_layers + 1][hidden_size]`.
pub fn hidden_states(
    files: &ModelFiles,
    options: &EngineOptions,
    prompt: &[u32],
) -> anyhow::Result<Vec<Vec<f32>>> {
    let plan = MemoryPlan::new(files, options, &Machine::detect())?;
    let (config, n) = (&plan.config, prompt.len());
    let spec = plan.spec.decoder().context("an encoder has no last token")?;
    ensure!((1..=config.max_model_len as usize).contains(&n), "a prompt of {n} tokens");
    let is_known = |&token: &u32| (token as usize) < spec.vocab_size;
    ensure!(prompt.iter().all(is_known), "a token beyond the vocabulary");
    let device = match config.gpu {
        Some(ordinal) => Device::cuda(ordinal)?,
        None => Device::cpu_with(1, config.cpu_isa),
    };
    let policy = match config.weights {
        Weights::Packed => WeightPolicy::Packed,
        Weights::Float32 => WeightPolicy::Float32,
    };
    let loader = WeightLoader::new(files, &device, policy, &|_, _| ());
    let loader = loader.with_activations(config.activations).with_dtype(config.dtype);
    let model = Decoder::load(spec.clone(), &loader, config.max_model_len as usize)?;
    let mut workspace = Workspace::of_decoder(&device, spec, n, 1)?;
    let (layout, block_size) =
        (CacheLayout::new(spec, config.gpu.is_some()), config.block_size as usize);
    let blocks = Blocks::new(&layout, n, block_size);
    let mut cache = KvCache::new(&device, &layout, config.kv_dtype, &blocks.of_pools, block_size)?;

    let positions: Vec<u32> = (0..n as u32).collect();
    let (ends, segment) = ([0, n as u32], blocks.segment(n));
    let step = StepInput {
        token_ids: prompt.into(),
        positions: (&positions).into(),
        slot_mapping: (&blocks.slot_mappings[0]).into(),
        query_start_loc: (&ends).into(),
        context_lens: (&ends[1..]).into(),
        rows: (&[0]).into(),
        output_rows: (&positions[n - 1..]).into(),
        block_tables: (&blocks.tables[0]).into(),
        max_blocks_per_seq: blocks.per_sequence,
        replayed_with: None,
        branches: None,
        groups: GroupInputs {
            slot_mappings: &blocks.slot_mappings,
            block_tables: &blocks.tables,
            arrays: None,
        },
        states: StateBatch::new(&segment, &[0, 1]),
    };
    let mut states = Vec::with_capacity(spec.num_layers() + 1);
    model.forward_observed(&device, &mut workspace, &mut cache, &step, |rows, count| {
        let cols = rows.cols();
        states.push(rows.read_f32()[(count - 1) * cols..count * cols].to_vec());
    });
    Ok(states)
}

/// Each cache group's blocks, one after the other in its pool.
struct Blocks {
    of_pools: Vec<usize>,
    /// Of each group.
    tables: Vec<Vec<u32>>,
    slot_mappings: Vec<Vec<u32>>,
    per_sequence: usize,
    /// A block of the group with states.
    state: u32,
}

impl Blocks {
    fn new(layout: &CacheLayout, num_tokens: usize, block_size: usize) -> Self {
        let per_sequence = num_tokens.div_ceil(block_size);
        let mut of_pools = vec![0; layout.pools.len()];
        let (mut tables, mut slot_mappings) = (Vec::new(), Vec::new());
        for group in &layout.groups {
            let first = &mut of_pools[group.pool as usize];
            let table: Vec<u32> =
                (*first..*first + per_sequence).map(|block| block as u32).collect();
            *first += per_sequence;
            let slot = |position: usize| {
                table[position / block_size] * block_size as u32 + (position % block_size) as u32
            };
            slot_mappings.push((0..num_tokens).map(slot).collect());
            tables.push(table);
        }
        let state = layout.recurrent_group().map_or(0, |group| tables[group][0]);
        Self { of_pools, tables, slot_mappings, per_sequence, state }
    }

    fn segment(&self, num_tokens: usize) -> [StateSegment; 1] {
        let num_rows = num_tokens as u32;
        [StateSegment { first_row: 0, num_rows, from: NO_STATE, to: self.state }]
    }
}
