//! Several engines behind one queue answer as one does; requests go where their beginning is cached and least is to be done.

use std::time::{Duration, Instant};

use quire_engine::config::{Faults, RankFault};
use quire_engine::handle::EngineHealth;
use quire_engine::request::{FinishReason, StreamEvent, SubmitError};
use quire_engine::{
    Engine, EngineHandle, EngineOptions, Machine, MemoryPlan, ModelFiles, Request, SamplingParams,
};
use quire_tests::{Answer, ask, collect, options, tiny_model};

fn start_replicas(options: &EngineOptions) -> EngineHandle {
    let files = ModelFiles::open(&tiny_model("llama3")).expect("readable");
    let plan = MemoryPlan::new(&files, options, &Machine::detect()).expect("it fits");
    let replicas = 0..plan.config.data_parallel_size;
    let handles: Vec<EngineHandle> = replicas
        .map(|replica| {
            let engine = Engine::load_replica(&files, &plan, replica, &[3], &|_, _| ());
            engine.expect("it loads").spawn().expect("it starts").0
        })
        .collect();
    EngineHandle::of_replicas(&handles)
}

fn replicas(data_parallel_size: usize) -> EngineOptions {
    EngineOptions { data_parallel_size, kv_cache_memory: Some(8 << 20), ..options() }
}

fn prompt(seed: u32, len: u32) -> Vec<u32> {
    (0..len).map(|index| (index * 37 + seed * 11) % 500).collect()
}

fn answers(options: &EngineOptions) -> Vec<Answer> {
    let handle = start_replicas(options);
    let submit = |index: u32| {
        let temperature = if index.is_multiple_of(2) { 0.0 } else { 0.9 };
        let seed = Some(u64::from(index));
        let params =
            SamplingParams { temperature, seed, logprobs: Some(2), ..SamplingParams::greedy(8) };
        let request = Request::new(prompt(index, 5 + 9 * index), params);
        handle.generate(request).expect("valid")
    };
    let streams: Vec<_> = (0..8).map(submit).collect();
    streams.into_iter().map(collect).collect()
}

#[test]
fn replicas_answer_as_one_engine() {
    assert_eq!(answers(&replicas(2)), answers(&replicas(1)));
    let on_ranks = EngineOptions { tensor_parallel_size: 2, threads: Some(4), ..replicas(2) };
    let ids = |answers: Vec<Answer>| answers.iter().map(Answer::ids).collect::<Vec<_>>();
    let greedy = |answers: Vec<Answer>| ids(answers).into_iter().step_by(2).collect::<Vec<_>>();
    assert_eq!(greedy(answers(&on_ranks)), greedy(answers(&replicas(1))), "of two ranks each");
}

#[test]
fn prompts_that_share_nothing_are_spread_and_what_is_cached_is_found() {
    let handle = start_replicas(&replicas(2));
    let submit = |seed: u32| {
        // Long enough that none is answered before all are asked.
        handle
            .generate(Request::new(prompt(seed, 100), SamplingParams::greedy(100)))
            .expect("valid")
    };
    let streams: Vec<_> = (0..6).map(submit).collect();
    streams.into_iter().map(collect).for_each(drop);
    // The loop publishes its figures after it has answered.
    let deadline = Instant::now() + Duration::from_secs(20);
    let queries = |replica| handle.stats_of(replica).prefix_cache_queries;
    while queries(0) + queries(1) < 600 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!([queries(0), queries(1)], [300, 300], "three prompts each");
    for seed in [4, 1, 0, 3, 5, 2] {
        let answer = ask(&handle, &prompt(seed, 100), SamplingParams::greedy(1));
        assert_eq!(answer.started.num_cached_tokens, 96, "prompt {seed}");
    }
}

#[test]
fn clients_that_leave_free_their_replica_and_a_drain_reaches_all() {
    let handle = start_replicas(&replicas(2));
    let submit = || {
        let params = SamplingParams { ignore_eos: true, ..SamplingParams::greedy(400) };
        handle.generate(Request::new(prompt(1, 5), params)).expect("valid")
    };
    let streams = [submit(), submit(), submit()];
    assert_eq!(handle.num_unfinished(), 3);
    drop(streams);
    let deadline = Instant::now() + Duration::from_secs(20);
    while handle.num_unfinished() > 0 {
        assert!(Instant::now() < deadline, "{} are unfinished", handle.num_unfinished());
        std::thread::yield_now();
    }
    handle.drain();
    assert!(matches!(handle.health(), EngineHealth::Draining { .. }));
    let refused = handle.generate(Request::new(vec![1], SamplingParams::greedy(1))).err();
    assert_eq!(refused, Some(SubmitError::Draining));
}

#[test]
fn a_replica_that_dies_is_told_and_the_others_answer_until_the_process_ends() {
    let hang = RankFault::Hang(Duration::from_secs(30));
    let faults = Faults { on_other_rank: Some((1, hang)), ..Faults::default() };
    let rank_timeout = Duration::from_millis(400);
    let options = EngineOptions {
        tensor_parallel_size: 2,
        threads: Some(4),
        rank_timeout,
        faults,
        ..replicas(2)
    };
    let handle = start_replicas(&options);
    // Each replica hangs in its second step, which one token does not need.
    let one_token = || ask(&handle, &prompt(1, 5), SamplingParams::greedy(1)).finished.reason;
    let request = Request::new(prompt(1, 5), SamplingParams::greedy(4));
    let mut stream = handle.generate(request).expect("valid");
    let reason = loop {
        match stream.blocking_next() {
            Some(StreamEvent::Finished(finished)) => break finished.reason,
            Some(_) => {}
            None => panic!("a stream ends with Finished"),
        }
    };
    assert!(matches!(reason, FinishReason::Stopped(_)), "{reason:?}");
    assert_eq!(handle.health(), EngineHealth::Stopped, "one is enough");
    assert_eq!(one_token(), FinishReason::Length, "the other still answers");
}

#[test]
fn replicas_without_threads_are_refused() {
    let files = ModelFiles::open(&tiny_model("llama3")).expect("readable");
    let refusal = |options: &EngineOptions| {
        let plan = MemoryPlan::new(&files, options, &Machine::detect());
        plan.expect_err("it is refused").to_string()
    };
    assert_eq!(
        refusal(&EngineOptions { tensor_parallel_size: 2, ..replicas(2) }),
        "--data-parallel-size 2 takes 4 compute threads, there are 2 (--threads)"
    );
    assert_eq!(refusal(&replicas(0)), "--data-parallel-size 0 is not between 1 and 64");
}
