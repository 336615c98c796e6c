//! A step that only decodes allocates nothing once its buffers are warm.

use std::sync::Arc;

use quire_engine::model_runner::{ModelRunner, StepJob, StepResult};
use quire_engine::models::Model;
use quire_engine::sequence_table::{RowInit, RowSampling};
use quire_engine::weights::WeightLoader;
use quire_engine::{EngineOptions, Machine, MemoryPlan, ModelFiles, SamplingParams};
use quire_kernels::{Device, WeightPolicy};
use quire_scheduler::{
    NewSequence, Scheduler, SchedulerConfig, SchedulerOutput, SequenceId, StopRule, Tenant,
};

/// Attention alone, with windows, with recurrent states, with experts, latent attention, per-layer embeddings, and an indexer.
#[test]
fn a_decode_step_allocates_nothing() {
    for family in [
        "qwen3",
        "gemma3",
        "qwen35_vl",
        "gpt_oss_mxfp4",
        "deepseek_v3",
        "gemma4_e2b",
        "glm5_shared",
    ] {
        check_decode_steps(family);
    }
}

fn check_decode_steps(family: &str) {
    let root = env!("CARGO_MANIFEST_DIR");
    let path = format!("{root}/../tests/data/conformance/{family}.gguf");
    let file = ModelFiles::open(path.as_ref()).expect("committed");
    let options = EngineOptions { kv_cache_memory: Some(1 << 20), ..EngineOptions::on_cpu() };
    let plan = MemoryPlan::new(&file, &options, &Machine::detect()).expect("it fits");
    // The counter sees this thread only, so all work stays on it.
    let device = Device::cpu(1);
    let loader = WeightLoader::new(&file, &device, WeightPolicy::Packed, &|_, _| ());
    let model = Model::load(plan.spec.clone(), &(0..0), &loader, 512).expect("it loads");
    let spec = (&plan.spec, plan.pooling);
    let mut runner = ModelRunner::new(device, (model, None), spec, &plan.config).expect("memory");
    let mut scheduler = Scheduler::new(scheduler_config(&plan)).expect("a valid configuration");
    (0..5).for_each(|id| scheduler.add(sequence(id)).expect("room"));

    let mut result = StepResult::default();
    let mut num_measured = 0;
    for _ in 0..40 {
        let output = scheduler.schedule().expect("work is left");
        let is_decode = output.admitted.is_empty() && output.num_tokens() == 5;
        let rows = rows(&scheduler, &output);
        let mut job = StepJob { output, rows };
        let info = allocation_counter::measure(|| runner.run(&mut job, &mut result));
        scheduler.update(&result.output);
        // Rows are prepared when they are admitted: the counter counts.
        assert!(is_decode || info.count_total > 0);
        // The first decode step warms thread-local scratch.
        if is_decode && num_measured > 0 {
            assert_eq!(info.count_total, 0, "{family}: {info:?}");
        }
        num_measured += usize::from(is_decode);
    }
    assert!(num_measured > 30);
}

fn scheduler_config(plan: &MemoryPlan) -> SchedulerConfig {
    quire_engine::engine::scheduler_config(&plan.config)
}

fn sequence(id: u64) -> NewSequence {
    NewSequence {
        id: SequenceId(id),
        prompt: (0..20 + id as u32).collect(),
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

/// Greedy rows for what was admitted.
fn rows(scheduler: &Scheduler, output: &SchedulerOutput) -> Vec<RowInit> {
    let sampling = Arc::new(RowSampling::new(SamplingParams::greedy(100), 0, &[], 512));
    let row = |admitted: &quire_scheduler::Admitted| {
        let tokens = scheduler.tokens(admitted.id).expect("it was admitted").to_vec();
        let num_prompt_tokens = tokens.len() as u32;
        RowInit { row: admitted.row, tokens, num_prompt_tokens, sampling: Arc::clone(&sampling) }
    };
    output.admitted.iter().map(row).collect()
}
