//! How steps are launched on a GPU changes no bit: as CUDA graphs or op by op, ahead of the host or not. On the emulator.

use quire_engine::config::{DeviceChoice, Speculative};
use quire_engine::request::FinishReason;
use quire_engine::{EngineOptions, Request, SamplingParams, TokenMask};
use quire_sim::Asynchrony;
use quire_tests::grammars::Classes;
use quire_tests::{Answer, collect, options, speculative, start, tiny_model};

fn cuda() -> EngineOptions {
    EngineOptions {
        device: DeviceChoice::Cuda(0),
        max_model_len: Some(128),
        max_num_seqs: Some(8),
        max_num_batched_tokens: Some(48),
        max_logprobs: 20,
        enable_prefix_caching: false,
        ..options()
    }
}

/// One step after the other, op by op.
fn plain() -> EngineOptions {
    EngineOptions { enforce_eager: true, async_scheduling: Some(false), ..cuda() }
}

/// They begin and end at different steps, so that the batch crosses sizes of graphs; some count their own tokens.
fn requests() -> Vec<Request> {
    (0..7_u32)
        .map(|index| {
            let prompt = (0..2 + 5 * index).map(|i| (i * 37 + index * 11) % 500).collect();
            let params = SamplingParams {
                temperature: if index % 2 == 0 { 0.0 } else { 0.8 },
                repetition_penalty: if index % 3 == 0 { 1.4 } else { 1.0 },
                frequency_penalty: if index == 4 { 1.5 } else { 0.0 },
                min_tokens: index,
                stop_token_ids: (70 * index..70 * index + 60).collect(),
                logprobs: (index == 1).then_some(3),
                prompt_logprobs: (index == 5).then_some(2),
                seed: Some(7),
                ..SamplingParams::greedy(3 + 2 * index)
            };
            Request::new(prompt, params)
        })
        .collect()
}

/// Of all requests at once, twice: what was recorded the first time is replayed then.
fn answers(options: &EngineOptions, requests: &[Request]) -> Vec<Answer> {
    answers_of("llama3", options, requests)
}

fn answers_of(model: &str, options: &EngineOptions, requests: &[Request]) -> Vec<Answer> {
    let handle = start(&tiny_model(model), options, &[3]);
    let submit = |request: &Request| handle.generate(request.clone()).expect("valid");
    let once = || requests.iter().map(submit).collect::<Vec<_>>().into_iter().map(collect);
    let first: Vec<Answer> = once().collect();
    first.into_iter().chain(once()).collect()
}

fn assert_equal(expected: &[Answer], answers: &[Answer], what: &str) {
    assert_eq!(expected.len(), answers.len());
    for (index, (want, got)) in expected.iter().zip(answers).enumerate() {
        assert_eq!(want, got, "{what}: request {index}");
    }
}

#[test]
fn graphs_and_steps_ahead_change_nothing() {
    let emulator = quire_sim::load();
    let requests = requests();
    let before = emulator.num_replays();
    let expected = answers(&plain(), &requests);
    assert_eq!(emulator.num_replays(), before, "graphs are off");
    for (enforce_eager, is_ahead, asynchrony) in [
        (false, false, Asynchrony::Lazy),
        (true, true, Asynchrony::Lazy),
        (true, true, Asynchrony::Eager),
        (false, true, Asynchrony::Lazy),
        (false, true, Asynchrony::Eager),
    ] {
        emulator.run_streams(Some(asynchrony));
        let (before, _) = (emulator.num_replays(), emulator.most_replays_waiting());
        let options = EngineOptions { enforce_eager, async_scheduling: Some(is_ahead), ..cuda() };
        let what = format!("eager: {enforce_eager}, ahead: {is_ahead}, {asynchrony:?}");
        assert_equal(&expected, &answers(&options, &requests), &what);
        let num_replays = emulator.num_replays() - before;
        assert_eq!(num_replays > 10, !enforce_eager, "{what}: {num_replays} replays");
        // With lazy streams a step waits until the host does: the next is launched before.
        let is_seen = !enforce_eager && asynchrony == Asynchrony::Lazy;
        let waiting = emulator.most_replays_waiting();
        assert!(!is_seen || waiting == 1 + u64::from(is_ahead), "{what}: {waiting} in flight");
    }
}

/// Layers that keep something else of a sequence, or choose: a state, latent vectors, keys of an indexer.
#[test]
fn graphs_hold_every_kind_of_layer() {
    let emulator = quire_sim::load();
    let requests = &requests()[..5];
    for model in ["qwen35_vl", "deepseek_v3", "glm5_shared"] {
        // Steps are filled up to the sizes of graphs, and a single bit may lead a row to other experts.
        let options = |options: EngineOptions| EngineOptions { batch_invariant: true, ..options };
        let expected = answers_of(model, &options(plain()), requests);
        let before = emulator.num_replays();
        let got = answers_of(model, &options(cuda()), requests);
        assert_equal(&expected, &got, model);
        let num_replays = emulator.num_replays() - before;
        assert!(num_replays > 5, "{model}: {num_replays} replays");
    }
}

#[test]
fn a_graph_that_was_recorded_wrong_is_noticed() {
    let emulator = quire_sim::load();
    let requests = &requests()[..4];
    let expected = answers(&plain(), requests);
    for planted in [
        c"rms_norm:another address",
        c"add_rms_norm:not launched",
        c"silu_mul:another address",
        c"attention_decode:not launched",
        c"gather_rows:an argument one larger",
        c"sample_rows:not launched",
    ] {
        emulator.plant_in_recordings(planted);
        assert!(expected != answers(&cuda(), requests), "{planted:?} is not noticed");
    }
}

#[test]
fn sequences_that_leave_their_rows_disturb_nobody() {
    let _emulator = quire_sim::load();
    let mut requests = requests();
    for request in &mut requests {
        request.params.max_tokens = Some(24);
        request.params.stop_token_ids.clear();
    }
    let expected = answers(&plain(), &requests);
    // 4 layers x 2 heads x 16 channels of bfloat16 for keys and values: room for 112 tokens.
    let (kv_cache_memory, max_model_len) = (Some(112 * 512), Some(64));
    let options = EngineOptions { kv_cache_memory, max_model_len, ..cuda() };
    let handle = start(&tiny_model("llama3"), &options, &[3]);
    let submit = |request: &Request| handle.generate(request.clone()).expect("valid");
    let gone = submit(&requests[2]);
    let streams: Vec<_> = requests.iter().map(submit).collect();
    drop(gone);
    let answers: Vec<Answer> = streams.into_iter().map(collect).collect();
    assert_equal(&expected[..requests.len()], &answers, "preempted");
    assert!(handle.stats().num_preemptions > 0, "the pool is too large for this test");
}

#[test]
fn with_batch_invariance_the_library_that_looks_at_the_batch_is_not_asked() {
    let emulator = quire_sim::load();
    let requests = &requests()[6..];
    for batch_invariant in [false, true] {
        let before = emulator.num_products();
        answers(&EngineOptions { batch_invariant, ..cuda() }, requests);
        let num_products = emulator.num_products() - before;
        assert_eq!(num_products == 0, batch_invariant, "{num_products} products");
    }
}

/// The masks travel to the sampler's table behind the step that they are for; with drafts each step is waited for, and the
/// sampler gets the masks that the CPU's gets.
#[test]
fn masks_reach_steps_that_were_launched_ahead() {
    let emulator = quire_sim::load();
    let constrained = |index: usize| index.is_multiple_of(2);
    let mut requests = requests();
    for (index, request) in requests.iter_mut().enumerate() {
        let params = &mut request.params;
        params.stop_token_ids.clear();
        if constrained(index) {
            (params.constraint, params.min_tokens) = (Classes::default().constraint(), 3);
            params.banned_token_ids = (100..200).collect();
            params.allowed_token_ids = (index == 4).then(|| (3..90).chain(300..500).collect());
        }
    }
    let dead = Classes::with_dead_end(4).constraint();
    let dead = SamplingParams { constraint: dead, ..SamplingParams::greedy(9) };
    requests.push(Request::new(vec![5, 6, 7], dead));
    // Steps with drafts and steps filled up to the sizes of graphs have other rows.
    let exact = |options| EngineOptions { batch_invariant: true, ..options };
    let expected = answers(&exact(plain()), &requests);
    for (index, answer) in expected.iter().enumerate().filter(|(i, _)| constrained(i % 8)) {
        let mut grammar = Classes::default();
        let tokens = answer.ids();
        tokens.iter().for_each(|&token| grammar.advance(token).expect("it may come"));
        assert!(tokens.iter().all(|token| !(100..200).contains(token)), "{index}: {tokens:?}");
    }
    assert_eq!(expected[7].finished.reason, FinishReason::DeadEnd("planted: a dead end".into()));
    assert_eq!(expected[7].tokens.len(), 4);
    let ahead = EngineOptions { async_scheduling: Some(true), ..cuda() };
    let eager = EngineOptions { enforce_eager: true, ..ahead.clone() };
    for (options, asynchrony) in [
        (&eager, Asynchrony::Lazy),
        (&ahead, Asynchrony::Lazy),
        (&eager, Asynchrony::Eager),
        (&ahead, Asynchrony::Eager),
    ] {
        emulator.run_streams(Some(asynchrony));
        let before = emulator.num_replays();
        let what = format!("eager: {}, {asynchrony:?}", options.enforce_eager);
        assert_equal(&expected, &answers(&exact(options.clone()), &requests), &what);
        assert_eq!(emulator.num_replays() - before > 10, !options.enforce_eager, "{what}");
    }
    let speculative = Speculative { is_adaptive: false, ..Speculative::new(speculative("ngram")) };
    let guessing = EngineOptions { speculative: Some(speculative), ..cuda() };
    assert_equal(&expected, &answers(&exact(guessing), &requests), "each step waited for");
}
