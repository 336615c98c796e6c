//! Failures planted in the middle of a batch: only the request they belong to may notice.

use std::time::{Duration, Instant};

use quire_engine::config::Faults;
use quire_engine::request::FinishReason;
use quire_engine::{EngineHandle, EngineOptions, Request, SamplingParams};
use quire_tests::{Answer, ask, collect, options, start, tiny_model};

const BAD_TOKEN: u32 = 333;

fn prompts() -> Vec<Vec<u32>> {
    let mut prompts: Vec<Vec<u32>> =
        (0..8).map(|i| (0..20 + i).map(|j| 10 + 7 * i + j).collect()).collect();
    prompts[3].push(BAD_TOKEN);
    prompts
}

fn params() -> SamplingParams {
    // No answer may reach the planted token by itself.
    SamplingParams {
        banned_token_ids: vec![BAD_TOKEN],
        logprobs: Some(3),
        ..SamplingParams::greedy(12)
    }
}

fn run(faults: Faults, async_scheduling: bool) -> Vec<Answer> {
    let async_scheduling = Some(async_scheduling);
    let is_healthy = faults.panic_on_token.is_none() && faults.nan_on_token.is_none();
    let options = EngineOptions { faults, async_scheduling, ..options() };
    let handle = start(&tiny_model("llama3"), &options, &[]);
    let submit = |prompt| handle.generate(Request::new(prompt, params())).expect("a valid request");
    let streams: Vec<_> = prompts().into_iter().map(submit).collect();
    let answers = streams.into_iter().map(collect).collect();
    // The engine goes on, and what failed left nothing in the prefix cache.
    assert_eq!(ask(&handle, &[1, 2, 3], params()).finished.reason, FinishReason::Length);
    let again = ask(&handle, &prompts()[3][..20], params());
    assert_eq!(again.started.num_cached_tokens > 0, is_healthy);
    wait_until_empty(&handle);
    answers
}

/// The engine publishes its figures after the last event of a turn.
fn wait_until_empty(handle: &EngineHandle) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while handle.num_unfinished() > 0 || handle.stats().num_used_blocks > 0 {
        assert!(Instant::now() < deadline, "blocks stay in use: {:?}", handle.stats());
        std::thread::yield_now();
    }
}

#[test]
fn a_panic_fails_the_request_that_causes_it_and_no_other() {
    for async_scheduling in [false, true] {
        let healthy = run(Faults::default(), async_scheduling);
        let faults = Faults { panic_on_token: Some(BAD_TOKEN), ..Faults::default() };
        check(&healthy, &run(faults, async_scheduling), "an internal error stopped this request");
    }
}

#[test]
fn logits_that_are_not_numbers_fail_one_request() {
    for async_scheduling in [false, true] {
        let healthy = run(Faults::default(), async_scheduling);
        let faults = Faults { nan_on_token: Some(BAD_TOKEN), ..Faults::default() };
        let message = "the model's output for this request is not a number";
        check(&healthy, &run(faults, async_scheduling), message);
    }
}

fn check(healthy: &[Answer], answers: &[Answer], message: &str) {
    for (index, (want, got)) in healthy.iter().zip(answers).enumerate() {
        if index == 3 {
            assert_eq!(got.finished.reason, FinishReason::Error(message.into()));
            assert!(got.tokens.is_empty());
        } else {
            assert_eq!(want.tokens, got.tokens, "request {index}");
            assert_eq!(want.finished.reason, got.finished.reason);
        }
    }
}

#[test]
fn a_client_that_goes_away_frees_its_blocks() {
    let handle = start(&tiny_model("llama3"), &options(), &[]);
    let endless = SamplingParams { max_tokens: None, ..SamplingParams::greedy(1) };
    let mut stream = handle.generate(Request::new(vec![1; 50], endless)).expect("a valid request");
    assert!(stream.blocking_next().is_some());
    assert_eq!(handle.num_unfinished(), 1);
    drop(stream);
    // The next answer comes from the same loop, after the loop saw that the client is gone.
    ask(&handle, &[4, 5, 6], params());
    wait_until_empty(&handle);
}
