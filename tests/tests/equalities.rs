//! What must not change a single bit of an answer: neighbours, chunks, the cache, preemption, overlap, threads.

use quire_engine::config::SimdLevel;
use quire_engine::{EngineOptions, Request};
use quire_tests::requests::{assert_equal, one_by_one, requests, together};
use quire_tests::{default_model, options, start, tiny_model};

fn uncached() -> EngineOptions {
    EngineOptions { enable_prefix_caching: false, ..options() }
}

#[test]
fn answers_do_not_depend_on_how_they_are_computed() {
    for family in [
        "llama3",
        "qwen3",
        "gemma3",
        "gpt_oss_mxfp4",
        "llama4_scout",
        "deepseek_v3",
        "qwen35_vl",
        "gemma4_e2b",
        "glm5_shared",
    ] {
        let model = tiny_model(family);
        let requests = requests(512, 90);
        let expected = one_by_one(&start(&model, &uncached(), &[3]), &requests);

        let handle = start(&model, &uncached(), &[3]);
        assert_equal("batch = single", &expected, &together(&handle, &requests));

        for max_num_batched_tokens in [1, 7, 33] {
            // and so many sequences at once
            let budget = Some(max_num_batched_tokens);
            let options = EngineOptions { max_num_batched_tokens: budget, ..uncached() };
            let handle = start(&model, &options, &[3]);
            assert_equal("chunked = whole", &expected, &together(&handle, &requests));
        }
        let options = EngineOptions { async_scheduling: Some(true), ..uncached() };
        let handle = start(&model, &options, &[3]);
        assert_equal("a step in flight = none", &expected, &together(&handle, &requests));

        for (threads, block_size) in [(1, 16), (3, 8), (2, 32)] {
            let (threads, block_size) = (Some(threads), Some(block_size));
            let options = EngineOptions { threads, block_size, ..uncached() };
            let handle = start(&model, &options, &[3]);
            assert_equal("any threads and blocks", &expected, &together(&handle, &requests));
        }
    }
}

#[test]
fn the_prefix_cache_changes_nothing_but_the_work() {
    let families = [
        "llama3",
        "gemma3",
        "gpt_oss_mxfp4",
        "gemma4_26b",
        "deepseek_v3",
        "qwen35_vl",
        "gemma4_e2b",
        "glm5_shared",
    ];
    for family in families {
        let model = tiny_model(family);
        let requests = requests(512, 90);
        let expected = one_by_one(&start(&model, &uncached(), &[3]), &requests);
        // Snapshots of states are large beside the weights of a tiny model, which limit the cache by default.
        let prefix_cache_memory = (family == "qwen35_vl").then_some(64 << 20);
        let options = EngineOptions { prefix_cache_memory, ..options() };
        let handle = start(&model, &options, &[3]);
        assert_equal("first time", &expected, &together(&handle, &requests));
        let again = together(&handle, &requests);
        assert_equal("cached = uncached", &expected, &again);
        let cached: u32 = again.iter().map(|answer| answer.started.num_cached_tokens).sum();
        assert!(cached > 500, "{family}: only {cached} tokens came from the cache");
    }
}

#[test]
fn preemption_changes_nothing() {
    // Short prompts that grow far: what the scheduler admits by its estimate outgrows the pool.
    let mut requests = requests(512, 12);
    requests.iter_mut().for_each(|request| request.params.max_tokens = Some(100));
    // 4 layers x 2 heads x 16 channels of float16 for keys and values: 512 bytes a token, room for 320 tokens. Windows
    // need less. Of a hybrid 9 states of 17 kB, and as much for pages.
    for (family, async_scheduling, bytes) in [
        ("llama3", false, 320 * 512),
        ("llama3", true, 320 * 512),
        ("gemma3", true, 200 * 512),
        ("gpt_oss_mxfp4", false, 320 * 512),
        ("gemma4_e2b", false, 200 * 512),
        ("glm5_shared", false, 320 * 704),
        ("qwen35_vl", false, 304 << 10),
        ("qwen35_vl", true, 304 << 10),
    ] {
        let model = tiny_model(family);
        let expected = one_by_one(&start(&model, &uncached(), &[3]), &requests);
        let options = EngineOptions {
            kv_cache_memory: Some(bytes),
            async_scheduling: Some(async_scheduling),
            ..options()
        };
        let handle = start(&model, &options, &[3]);
        assert_equal("preempted = not", &expected, &together(&handle, &requests));
        assert!(
            handle.stats().num_preemptions > 0,
            "{family}: the pool is too large for this test"
        );
    }
}

#[test]
fn a_real_model_answers_alike_alone_and_among_neighbours() {
    let requests: Vec<Request> = requests(49152, 60).into_iter().take(12).collect();
    let handle = start(&default_model(), &uncached(), &[2]);
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
        let options = EngineOptions { cpu_isa: Some(level), ..uncached() };
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
