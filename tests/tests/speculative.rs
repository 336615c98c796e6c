//! Guessing tokens must not change a single bit of an answer, whatever is guessed and whatever else goes on.

use std::path::Path;

use quire_engine::config::{Faults, Speculative};
use quire_engine::handle::SchedulerStats;
use quire_engine::request::{DraftCount, DraftStats, FinishReason, StreamEvent};
use quire_engine::{
    EngineHandle, EngineOptions, Machine, MemoryPlan, ModelFiles, Request, SamplingParams,
};
use quire_tests::requests::{assert_equal, one_by_one, requests, together};
use quire_tests::{
    ask, default_model, options, repository, speculative, speculative_at, start, tiny_model,
};

/// Every guess is taken, good or bad.
fn always(num_tokens: u32, options: EngineOptions) -> EngineOptions {
    let method = speculative("ngram");
    let speculative =
        Some(Speculative { num_tokens, is_adaptive: false, ..Speculative::new(method) });
    EngineOptions { speculative, ..options }
}

fn uncached() -> EngineOptions {
    EngineOptions { enable_prefix_caching: false, ..options() }
}

/// Texts that repeat themselves, so that there is something to guess.
fn repetitive(max_prompt: u32, max_tokens: u32) -> Vec<Request> {
    let mut requests = requests(512, max_prompt);
    for (index, request) in requests.iter_mut().enumerate() {
        let start = request.prompt.len() / 3;
        request.prompt.extend_from_within(start..);
        request.params.max_tokens = Some(max_tokens + index as u32 % 7);
        if index % 3 == 1 {
            // What was said is said again.
            request.params.temperature /= 2.0;
            request.params.presence_penalty = -2.0;
        }
        if index % 3 == 2 {
            // Few words are easily guessed.
            request.params.allowed_token_ids = Some((20..24).collect());
        }
    }
    requests
}

/// Some drafts were right and some were wrong; returns how many were right.
fn both_kinds(what: &str, stats: SchedulerStats) -> u64 {
    let drafts = stats.drafts;
    let num_right = drafts.num_right.iter().sum();
    assert!(num_right > 40 && drafts.num_tokens > num_right + 40, "{what}: {drafts:?}");
    assert!(drafts.num_right.is_sorted_by(|a, b| a >= b), "{what}: {drafts:?}");
    num_right
}

#[test]
fn answers_are_those_without_speculation() {
    for family in
        ["llama3", "qwen3", "gemma3", "gpt_oss_mxfp4", "llama4_scout", "deepseek_v3", "qwen35_vl"]
    {
        let model = tiny_model(family);
        let requests = repetitive(50, 30);
        let expected = one_by_one(&start(&model, &uncached(), &[3]), &requests);

        let handle = start(&model, &always(7, uncached()), &[3]);
        assert_equal("alone", &expected[..8], &one_by_one(&handle, &requests[..8]));
        let handle = start(&model, &always(7, uncached()), &[3]);
        assert_equal("together", &expected, &together(&handle, &requests));
        both_kinds(family, handle.stats());

        for (max_num_batched_tokens, num_tokens) in [(7, 3), (33, 7)] {
            let budget = Some(max_num_batched_tokens);
            let chunked = EngineOptions { max_num_batched_tokens: budget, ..uncached() };
            let handle = start(&model, &always(num_tokens, chunked), &[3]);
            assert_equal("in chunks", &expected, &together(&handle, &requests));
        }
        let cached = EngineOptions {
            prefix_cache_memory: Some(64 << 20),
            threads: Some(3),
            block_size: Some(8),
            ..options()
        };
        let handle = start(&model, &always(2, cached), &[3]);
        assert_equal("first time", &expected, &together(&handle, &requests));
        assert_equal("cached", &expected, &together(&handle, &requests));
    }
}

#[test]
fn preemption_and_drafts_change_nothing_together() {
    for (family, bytes, max_tokens) in
        [("llama3", 320 * 512, 60), ("gemma3", 150 * 512, 60), ("qwen35_vl", 304 << 10, 110)]
    {
        let mut requests = repetitive(12, max_tokens);
        requests.iter_mut().for_each(|request| request.prompt.truncate(45));
        let model = tiny_model(family);
        let expected = one_by_one(&start(&model, &uncached(), &[3]), &requests);
        let small = EngineOptions { kv_cache_memory: Some(bytes), ..options() };
        let handle = start(&model, &always(5, small), &[3]);
        assert_equal("preempted", &expected, &together(&handle, &requests));
        both_kinds(family, handle.stats());
        assert!(handle.stats().num_preemptions > 0, "{family}: the pool is too large");
    }
}

#[test]
fn a_choice_by_measured_times_changes_nothing() {
    let requests: Vec<Request> = repetitive(40, 24).into_iter().take(7).collect();
    let expected = one_by_one(&start(&default_model(), &uncached(), &[2]), &requests);
    let speculative = Some(Speculative::new(speculative("ngram")));
    let handle = start(&default_model(), &EngineOptions { speculative, ..options() }, &[2]);
    assert_equal("together", &expected, &together(&handle, &requests));
    assert_equal("alone", &expected[..3], &one_by_one(&handle, &requests[..3]));
}

#[test]
fn a_text_that_repeats_itself_takes_fewer_steps() {
    let handle = start(&tiny_model("llama3"), &always(7, options()), &[]);
    // Whatever comes, the penalty makes it come again.
    let params = SamplingParams { presence_penalty: -2.0, ..SamplingParams::greedy(60) };
    let answer = ask(&handle, &[5, 6, 7, 8, 5, 6, 7, 8, 5, 6], params);
    assert_eq!(answer.tokens.len(), 60);
    let drafts = handle.stats().drafts;
    assert!(drafts.num_right.iter().sum::<u64>() > 30, "{drafts:?}");
}

/// A stop token among right drafts ends the answer there, and not before `min_tokens`. The model itself guesses, so that all
/// drafts are right: the stop comes at each place of a step.
#[test]
fn a_stop_token_among_right_drafts_ends_the_answer() {
    let model = tiny_model("llama3");
    let plain = start(&model, &uncached(), &[3]);
    let guessed = start(&model, &draft_of("llama3", 5, options()), &[3]);
    for temperature in [0.0, 0.9] {
        let params = SamplingParams {
            temperature,
            seed: Some(5),
            logprobs: Some(2),
            frequency_penalty: 0.4,
            ..SamplingParams::greedy(30)
        };
        let answer = ask(&plain, &[5, 6, 7, 8, 9], params.clone()).ids();
        let mut requests = Vec::new();
        for (index, &token) in answer.iter().enumerate().take(14) {
            for min_tokens in [0, index as u32, index as u32 + 3] {
                let stops =
                    SamplingParams { min_tokens, stop_token_ids: vec![token], ..params.clone() };
                requests.push(Request::new(vec![5, 6, 7, 8, 9], stops));
            }
            // The model's own end, likely from some place on.
            let ends = SamplingParams {
                min_tokens: index as u32,
                logit_bias: vec![(3, 4.0)],
                ..params.clone()
            };
            requests.push(Request::new(vec![5, 6, 7, 8, 9], ends));
        }
        let expected = one_by_one(&plain, &requests);
        assert_equal("guessed", &expected, &together(&guessed, &requests));
        let ends = |wanted: fn(&FinishReason) -> bool| {
            expected.iter().filter(|answer| wanted(&answer.finished.reason)).count()
        };
        assert!(ends(|reason| matches!(reason, FinishReason::StopToken(_))) > 10);
        assert!(ends(|reason| matches!(reason, FinishReason::EndToken)) > 0);
    }
    assert!(guessed.stats().drafts.num_right[4] > 20, "{:?}", guessed.stats().drafts);
}

/// What one request's stream says of its drafts.
fn drafts_of(handle: &EngineHandle, request: &Request) -> DraftStats {
    let mut stream = handle.generate(request.clone()).expect("the request is valid");
    let (mut drafts, mut num_tokens, mut promised) = (DraftStats::default(), 0, 0);
    loop {
        match stream.blocking_next().expect("an end comes first") {
            StreamEvent::Drafts(DraftCount { num_tokens: guessed, num_right }) => {
                assert!(num_tokens >= promised, "a step gives its right drafts and one token");
                promised = num_tokens + num_right + 1;
                drafts.count(guessed, num_right);
            }
            StreamEvent::Token(_) => num_tokens += 1,
            StreamEvent::Finished(finished) => {
                assert_eq!(finished.num_output_tokens, num_tokens);
                return drafts;
            }
            StreamEvent::Started(_) | StreamEvent::Embedding(_) => {}
        }
    }
}

#[test]
fn requests_are_told_of_their_drafts() {
    let handle = start(&tiny_model("llama3"), &always(5, options()), &[3]);
    let mut sum = DraftStats::default();
    for request in &repetitive(40, 24)[..6] {
        let own = drafts_of(&handle, request);
        sum.num_verified += own.num_verified;
        sum.num_tokens += own.num_tokens;
        sum.num_right.iter_mut().zip(own.num_right).for_each(|(sum, own)| *sum += own);
    }
    assert!(sum.num_tokens > 0);
    assert_eq!(sum, handle.stats().drafts);
    // Without speculation nobody says anything of drafts.
    let handle = start(&tiny_model("llama3"), &options(), &[3]);
    assert_eq!(drafts_of(&handle, &repetitive(40, 24)[1]), DraftStats::default());
}

const BAD_TOKEN: u32 = 333;

/// The answers of a greedy text that gets to the bad token by a bias, after others that are repeated.
fn failing(faults: Faults) -> (EngineHandle, Vec<FinishReason>, Vec<Vec<u32>>) {
    let handle =
        start(&tiny_model("llama3"), &always(7, EngineOptions { faults, ..options() }), &[]);
    let healthy =
        SamplingParams { banned_token_ids: vec![BAD_TOKEN], ..SamplingParams::greedy(20) };
    // Each of the three follows the one before it, since no other is allowed twice in a row.
    let bad = SamplingParams {
        allowed_token_ids: Some(vec![10, 11, BAD_TOKEN]),
        frequency_penalty: 2.0,
        ..SamplingParams::greedy(20)
    };
    let prompt = [10, 11, BAD_TOKEN - 1].repeat(4);
    let requests =
        [healthy.clone(), bad, healthy].map(|params| Request::new(prompt.clone(), params));
    let answers = together(&handle, &requests);
    let reasons = answers.iter().map(|answer| answer.finished.reason.clone()).collect();
    let ids = answers.iter().map(quire_tests::Answer::ids).collect();
    (handle, reasons, ids)
}

#[test]
fn failures_end_a_request_where_they_do_without_drafts() {
    let (_, _, healthy) = failing(Faults::default());
    let first_bad = healthy[1].iter().position(|&token| token == BAD_TOKEN).expect("it comes");
    for (faults, message) in [
        (
            Faults { nan_on_token: Some(BAD_TOKEN), ..Faults::default() },
            "the model's output for this request is not a number",
        ),
        (
            Faults { panic_on_token: Some(BAD_TOKEN), ..Faults::default() },
            "an internal error stopped this request",
        ),
    ] {
        let (handle, reasons, ids) = failing(faults);
        assert_eq!(reasons[1], FinishReason::Error(message.into()));
        assert_eq!(ids[1], healthy[1][..=first_bad]);
        for other in [0, 2] {
            assert_eq!(reasons[other], FinishReason::Length);
            assert_eq!(ids[other], healthy[other]);
        }
        assert!(handle.stats().drafts.num_verified > 0);
    }
}

fn draft_of(family: &str, num_tokens: u32, options: EngineOptions) -> EngineOptions {
    let method = speculative_at("draft", &tiny_model(family));
    let speculative =
        Some(Speculative { num_tokens, is_adaptive: false, ..Speculative::new(method) });
    EngineOptions { speculative, ..options }
}

#[test]
fn a_draft_model_changes_nothing_and_the_model_itself_is_always_right() {
    let requests = repetitive(50, 30);
    for (family, other) in [("llama3", "qwen3"), ("gemma3", "qwen35_vl"), ("qwen35_vl", "gemma3")] {
        let model = tiny_model(family);
        let expected = one_by_one(&start(&model, &uncached(), &[3]), &requests);
        let handle = start(&model, &draft_of(other, 4, options()), &[3]);
        assert_equal("another model", &expected, &together(&handle, &requests));
        assert!(handle.stats().drafts.num_verified > 100);

        // At any temperature, with penalties and biases: both draw with the same random numbers.
        let handle = start(&model, &draft_of(family, 4, options()), &[3]);
        assert_equal("itself", &expected, &together(&handle, &requests));
        let drafts = handle.stats().drafts;
        let num_right: u64 = drafts.num_right.iter().sum();
        assert!(num_right > 100 && num_right == drafts.num_tokens, "{family}: {drafts:?}");
    }
}

#[test]
fn drafts_from_little_memory_and_by_measured_times_change_nothing() {
    let requests = repetitive(40, 30);
    let model = tiny_model("llama3");
    let expected = one_by_one(&start(&model, &uncached(), &[3]), &requests);
    let mut chunked = draft_of("llama3", 7, uncached());
    chunked.max_num_batched_tokens = Some(9);
    let handle = start(&model, &chunked, &[3]);
    assert_equal("in chunks", &expected, &together(&handle, &requests));
    let mut skipping = draft_of("llama3", 3, options());
    skipping.speculative.iter_mut().for_each(|own| own.method = speculative("skip:1-1"));
    let handle = start(&model, &skipping, &[3]);
    assert_equal("without a layer", &expected, &together(&handle, &requests));
    both_kinds("without a layer", handle.stats());
    let mut adaptive = draft_of("llama3", 7, options());
    adaptive.speculative.iter_mut().for_each(|own| own.is_adaptive = true);
    let handle = start(&model, &adaptive, &[3]);
    assert_equal("adaptive", &expected, &together(&handle, &requests));
}

#[test]
fn where_nobody_asks_prompt_lookup_is_tried_where_it_may_pay() {
    let automatic =
        |options| EngineOptions { speculative: Some(Speculative::automatic()), ..options };
    let method = |path: &Path, options: EngineOptions| {
        let files = ModelFiles::open(path).expect("the model is readable");
        let plan = MemoryPlan::new(&files, &automatic(options), &Machine::detect());
        let speculative = plan.expect("whatever the model").config.speculative;
        speculative.map(|speculative| speculative.method.to_string())
    };
    let llama = tiny_model("llama3");
    assert_eq!(method(&llama, options()), Some("ngram".into()));
    let overlapped = EngineOptions { async_scheduling: Some(true), ..options() };
    assert_eq!(method(&llama, overlapped), None);
    let encoder = repository("tests/data/conformance/hf/bert");
    for unfit in [tiny_model("qwen35_vl"), encoder] {
        assert_eq!(method(&unfit, options()), None, "{}", unfit.display());
    }
}

#[test]
fn what_cannot_be_guessed_with_is_a_sentence_at_start() {
    let files = ModelFiles::open(&tiny_model("llama3")).expect("the model file is readable");
    let error = |options: &EngineOptions| {
        let error = MemoryPlan::new(&files, options, &Machine::detect()).err();
        format!("{:#}", error.expect("it cannot be done"))
    };
    let of = |method| EngineOptions { speculative: Some(Speculative::new(method)), ..options() };
    let other = error(&of(speculative_at("draft", &default_model())));
    for part in ["--speculative draft:", "49152", "SmolLM2", "512", "llama3.gguf"] {
        assert!(other.contains(part), "{part:?} is not in {other}");
    }
    let nothing = error(&of(speculative("draft:/nowhere.gguf")));
    assert!(nothing.contains("--speculative draft:/nowhere.gguf"), "{nothing}");
    for layers in ["skip:0-3", "skip:2-8"] {
        let skipping = error(&of(speculative(layers)));
        assert!(
            skipping.contains("--speculative skip:") && skipping.contains("0 to 3"),
            "{skipping}"
        );
    }
    let ngram = of(speculative("ngram"));
    let overlapped = error(&EngineOptions { async_scheduling: Some(true), ..ngram.clone() });
    assert!(overlapped.contains("--async-scheduling") && overlapped.contains("--speculative"));
    for num_tokens in [0, 99] {
        let mut options = ngram.clone();
        options.speculative.iter_mut().for_each(|own| own.num_tokens = num_tokens);
        let text = error(&options);
        assert!(text.contains(&format!("--num-speculative-tokens {num_tokens}")), "{text}");
    }
}
