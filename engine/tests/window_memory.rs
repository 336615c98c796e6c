//! Layers with a window keep only what it sees: counted in blocks, and said by the plan.

use std::sync::Arc;

use quire_engine::{EngineOptions, Machine, MemoryPlan, ModelFiles};
use quire_scheduler::{
    CacheKind, NewSequence, SampledSequence, Scheduler, SequenceId, StepOutput, StopRule, Tenant,
    TokenList,
};

fn plan() -> MemoryPlan {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/conformance/gemma3.gguf");
    let file = ModelFiles::open(path.as_ref()).expect("committed");
    let options = EngineOptions {
        kv_cache_memory: Some(1 << 20),
        block_size: Some(8),
        max_num_batched_tokens: Some(16),
        max_num_seqs: Some(4),
        ..EngineOptions::on_cpu()
    };
    MemoryPlan::new(&file, &options, &Machine::detect()).expect("it fits")
}

#[test]
fn a_long_sequence_holds_no_blocks_behind_its_windows() {
    let plan = plan();
    let config = &plan.config;
    let count = |is_asked: fn(CacheKind) -> bool| {
        config.cache_groups.iter().filter(|group| is_asked(group.kind)).count() as u32
    };
    let num_full = count(|kind| kind == CacheKind::FullAttention);
    let num_windows = count(|kind| kind == CacheKind::SlidingWindow { window: 32 });
    assert!(num_full > 0 && num_windows > 0, "{:?}", config.cache_groups);
    assert_eq!(num_full + num_windows, config.cache_groups.len() as u32);
    assert_eq!(config.cache_pools.len(), 1, "pages of equal bytes share a pool");

    let mut scheduler =
        Scheduler::new(quire_engine::engine::scheduler_config(config)).expect("valid");
    scheduler.add(long_sequence()).expect("it fits");
    let mut num_tokens = 0;
    let mut most_blocks = 0;
    while let Some(output) = scheduler.schedule() {
        num_tokens += output.num_tokens();
        let stats = scheduler.stats();
        // A window of 32 and 16 tokens of a step see 47 positions, in 7 blocks of 8 at most.
        let most = num_full * 400_u32.div_ceil(8) + num_windows * 7;
        assert!(stats.num_used_blocks <= most, "{} of {most}", stats.num_used_blocks);
        most_blocks = most_blocks.max(stats.num_used_blocks);
        let tokens = if output.sequences[0].samples { TokenList::one(7) } else { TokenList::EMPTY };
        let sequences = vec![SampledSequence { tokens, failed: false }];
        scheduler.update(&StepOutput { step: output.step, sequences });
    }
    assert_eq!(num_tokens, 399);
    let without_windows = (num_full + num_windows) * 50;
    println!("{most_blocks} blocks at most, {without_windows} if every layer kept everything");
    assert!(most_blocks * 2 < without_windows);
}

fn long_sequence() -> NewSequence {
    NewSequence {
        id: SequenceId(1),
        prompt: (0..300).collect(),
        stop: StopRule {
            max_tokens: 100,
            min_tokens: 0,
            eos_token_ids: Arc::new([]),
            stop_token_ids: Arc::new([]),
            ignore_eos: true,
        },
        tenant: Tenant::default(),
        priority: 0,
        cache_salt: 0,
        skip_prefix_cache: false,
    }
}

#[test]
fn the_plan_says_what_layers_keep() {
    let plan = plan();
    let line = |name: &str| {
        let table = plan.table();
        table.iter().find(|(other, _)| *other == name).expect("a line").1.clone()
    };
    println!("{:?}", plan.table());
    assert!(
        line("KV cache").ends_with("layers keep the last 32 tokens, 1 everything"),
        "{}",
        line("KV cache")
    );
    let per_sequence = u64::from(plan.config.max_model_len) * plan.kv_bytes_per_token;
    let printed = line("KV per sequence");
    assert_ne!(
        printed,
        format!(
            "{} at {} tokens",
            quire_engine::plan::human_bytes(per_sequence),
            plan.config.max_model_len
        )
    );
}
