//! What must not change a single bit of an answer, of any family: neighbours, chunks, the cache, preemption, overlap, threads.
//! That ranks answer alike is in `tensor_parallel.rs`, but for preemption.

use std::time::Duration;

use quire_engine::config::{SimdLevel, Weights};
use quire_engine::weights::ModelFiles;
use quire_engine::{EngineHandle, EngineOptions, Machine, MemoryPlan, Request};
use quire_tests::families::{Family, families_here};
use quire_tests::requests::{assert_equal, one_by_one, requests, together};
use quire_tests::{Answer, default_model, options, start, start_files, tiny_model};

/// Of the longest prompt of `growing`.
const NUM_PROMPT_TOKENS: u32 = 12;

fn uncached(options: EngineOptions) -> EngineOptions {
    EngineOptions { enable_prefix_caching: false, ..options }
}

/// Of many shapes.
fn some_requests() -> Vec<Request> {
    requests(512, 90).into_iter().take(12).collect()
}

/// Each alone, uncached, with the defaults.
fn alone(family: &Family, files: &ModelFiles, requests: &[Request]) -> Vec<Answer> {
    let options = uncached(family.options(Weights::Packed));
    one_by_one(&start_files(files, &options, &[3]), requests)
}

#[test]
fn answers_do_not_depend_on_how_they_are_computed() {
    let requests = some_requests();
    for (family, files) in families_here() {
        let (name, expected) = (family.name, alone(family, &files, &requests));
        let check = |what: &str, options: EngineOptions| {
            let handle = start_files(&files, &options, &[3]);
            assert_equal(&format!("{name}, {what}"), &expected, &together(&handle, &requests));
        };
        let plain = || uncached(family.options(Weights::Packed));
        check("batch = single", plain());
        for max_num_batched_tokens in [1, 7, 33] {
            // and so many sequences at once
            let budget = Some(max_num_batched_tokens);
            let options = EngineOptions { max_num_batched_tokens: budget, ..plain() };
            check(&format!("chunks of {max_num_batched_tokens} = whole"), options);
        }
        let overlapped = EngineOptions { async_scheduling: Some(true), ..plain() };
        check("a step in flight = none", overlapped);
        for (threads, block_size) in [(1, 16), (3, 8), (2, 32)] {
            let (threads, block_size) = (Some(threads), Some(block_size));
            let options = EngineOptions { threads, block_size, ..plain() };
            check("any threads and blocks", options);
        }
    }
}

#[test]
fn the_prefix_cache_changes_nothing_but_the_work() {
    let requests = some_requests();
    for (family, files) in families_here() {
        let (name, expected) = (family.name, alone(family, &files, &requests));
        for async_scheduling in [false, true] {
            let options = EngineOptions {
                // Snapshots of states are large beside the weights of a tiny model, which limit the cache by default.
                prefix_cache_memory: Some(64 << 20),
                async_scheduling: Some(async_scheduling),
                ..family.options(Weights::Packed)
            };
            let handle = start_files(&files, &options, &[3]);
            assert_equal(&format!("{name}, first"), &expected, &together(&handle, &requests));
            let again = together(&handle, &requests);
            assert_equal(&format!("{name}, cached = uncached"), &expected, &again);
            let cached: u32 = again.iter().map(|answer| answer.started.num_cached_tokens).sum();
            assert!(cached > 200, "{name}: only {cached} tokens came from the cache");
        }
    }
}

/// Prompts of few tokens, whose answers grow far: what the scheduler admits by its estimate outgrows a small pool.
fn growing(num_output_tokens: u32) -> Vec<Request> {
    let mut requests = requests(512, NUM_PROMPT_TOKENS);
    requests.retain(|request| request.prompt.len() <= NUM_PROMPT_TOKENS as usize);
    for request in &mut requests {
        request.params.max_tokens = Some(num_output_tokens);
        request.params.min_tokens = num_output_tokens;
    }
    requests
}

/// How far answers grow, and the bytes of a KV cache that is too small for them.
fn too_small_a_cache(files: &ModelFiles, options: &EngineOptions) -> (u32, u64) {
    let plan = MemoryPlan::new(files, options, &Machine::detect()).expect("it fits");
    let (layout, config) = (&plan.cache_layout, &plan.config);
    // The layout is that of one rank, and each has as much of the memory.
    let of_all_ranks = |bytes: u64| bytes * config.tensor_parallel_size as u64;
    let bytes = layout.bytes_per_block(config.kv_dtype, config.block_size);
    let bytes: Vec<u64> = bytes.into_iter().map(of_all_ranks).collect();
    let state_bytes = layout.state_bytes(&bytes);
    if state_bytes > 0 {
        // States take half of it and limit who runs: the rest shall be too small for these, which takes long answers.
        return (110, 18 * state_bytes);
    }
    // Two or three whole sequences. Longer ones would not grow in a window, which the scheduler knows.
    let num_output_tokens = 40;
    let lengths = (config.max_num_batched_tokens, config.block_size);
    let held = layout.blocks_held(NUM_PROMPT_TOKENS + num_output_tokens, lengths.0, lengths.1);
    let of_sequence: u64 = held.iter().zip(bytes).map(|(blocks, bytes)| blocks * bytes).sum();
    (num_output_tokens, of_sequence * 5 / 2)
}

/// On so many ranks, whose sums have an order of their own, against what `answers` gets of them when they have memory enough.
fn check_preemption(
    (family, files): (&Family, &ModelFiles),
    tensor_parallel_size: usize,
    answers: fn(&EngineHandle, &[Request]) -> Vec<Answer>,
    overlapped: &[bool],
) {
    let options = EngineOptions {
        tensor_parallel_size,
        // A step that fails, since a machine slept, counts as preemptions.
        rank_timeout: Duration::from_secs(3600),
        max_model_len: Some(NUM_PROMPT_TOKENS + 110),
        // A sequence keeps as many tokens more than its window.
        max_num_batched_tokens: Some(16),
        block_size: Some(8),
        ..family.options(Weights::Packed)
    };
    let (num_output_tokens, bytes) = too_small_a_cache(files, &options);
    let requests = growing(num_output_tokens);
    let name = format!("{}, ranks: {tensor_parallel_size}", family.name);
    let roomy = EngineOptions {
        tensor_parallel_size,
        rank_timeout: options.rank_timeout,
        ..uncached(family.options(Weights::Packed))
    };
    let roomy = start_files(files, &roomy, &[3]);
    let expected = answers(&roomy, &requests);
    assert_eq!(roomy.stats().num_preemptions, 0, "{name}: there is memory enough");
    for &async_scheduling in overlapped {
        let options = EngineOptions {
            kv_cache_memory: Some(bytes),
            max_model_len: Some(NUM_PROMPT_TOKENS + num_output_tokens),
            async_scheduling: Some(async_scheduling),
            ..options.clone()
        };
        let handle = start_files(files, &options, &[3]);
        assert_equal(&format!("{name}, preempted"), &expected, &together(&handle, &requests));
        let num_preemptions = handle.stats().num_preemptions;
        assert!(num_preemptions > 0, "{name}: the pool is too large for this test");
    }
}

#[test]
fn preemption_changes_nothing() {
    for (family, files) in families_here() {
        check_preemption((family, &files), 1, one_by_one, &[false, true]);
    }
}

#[test]
fn preemption_changes_nothing_on_ranks_either() {
    for (family, files) in families_here() {
        // Of few steps: ranks wait for each other in each layer.
        check_preemption((family, &files), 2, together, &[true]);
    }
}

#[test]
fn a_real_model_answers_alike_alone_and_among_neighbours() {
    let requests: Vec<Request> = requests(49152, 60).into_iter().take(12).collect();
    let handle = start(&default_model(), &uncached(options()), &[2]);
    let expected = one_by_one(&handle, &requests);
    assert_equal("batch = single", &expected, &together(&handle, &requests));
    let options = EngineOptions {
        max_num_batched_tokens: Some(19),
        async_scheduling: Some(true),
        ..options()
    };
    let handle = start(&default_model(), &options, &[2]);
    assert_equal("chunked, cached, overlapped", &expected, &together(&handle, &requests));
}

#[test]
fn every_instruction_set_answers_alike_alone_and_among_neighbours() {
    let long = requests(512, 60);
    let short: Vec<Request> = requests(49152, 6)
        .into_iter()
        .take(3)
        .map(|mut request| {
            request.params.max_tokens = Some(3);
            request
        })
        .collect();
    for level in SimdLevel::available() {
        let options = EngineOptions { cpu_isa: Some(level), ..uncached(options()) };
        for (model, requests) in [
            (tiny_model("llama3"), &long),
            (tiny_model("gemma3"), &long),
            (tiny_model("gpt_oss_mxfp4"), &long),
            (default_model(), &short),
        ] {
            let handle = start(&model, &options, &[3]);
            let expected = one_by_one(&handle, requests);
            assert_equal(level.name(), &expected, &together(&handle, requests));
        }
    }
}
