//! A model on several GPUs of the emulator: the same engine and launches as on GPUs, with NCCL between them; and what happens
//! when one of them fails.

use std::path::Path;
use std::time::{Duration, Instant};

use quire_engine::config::{DeviceChoice, Faults, RankFault};
use quire_engine::handle::EngineHealth;
use quire_engine::request::{FinishReason, StreamEvent};
use quire_engine::{
    Engine, EngineOptions, Machine, MemoryPlan, ModelFiles, Request, SamplingParams, TokenStream,
};
use quire_sim::Asynchrony;
use quire_tests::distance::gap;
use quire_tests::families::FAMILIES;
use quire_tests::grammars::Classes;
use quire_tests::windows::{ids, number, read};
use quire_tests::{Answer, ask, collect, default_model, options, start, start_files, tiny_model};
use serde_json::Value;

/// Where the two likeliest tokens lie closer than this, the rounding of BF16 may choose either.
const MIN_MARGIN: f64 = 0.1;

fn gpus(tensor_parallel_size: usize) -> EngineOptions {
    EngineOptions {
        device: DeviceChoice::Cuda(0),
        tensor_parallel_size,
        max_model_len: Some(128),
        max_num_seqs: Some(8),
        max_num_batched_tokens: Some(48),
        ..options()
    }
}

#[test]
fn three_gpus_give_the_golden_text_of_the_default_model() {
    let emulator = quire_sim::load();
    emulator.plug_in(3);
    const NUM_TOKENS: usize = 4;
    let golden = read("smollm2-135m.json");
    let prompts = golden["float32"].as_object().expect("prompts by text");
    let num_before_tie = |entry: &Value| {
        let steps = entry["fp32"]["steps_id_logprob_runnerup_margin"].as_array().expect("steps");
        let is_tie = |step: &Value| number(&step[3]) <= MIN_MARGIN;
        steps.iter().take(NUM_TOKENS).position(is_tie).unwrap_or(NUM_TOKENS)
    };
    let entries = prompts.values().filter(|entry| entry["fp32"].is_object());
    let cost =
        |entry: &&Value| (NUM_TOKENS - num_before_tie(entry), ids(&entry["prompt_ids"]).len());
    let entry = entries.min_by_key(cost).expect("there are prompts");
    assert_eq!(num_before_tie(entry), NUM_TOKENS);
    let handle = start(&default_model(), &gpus(3), &[2]);
    let params = SamplingParams::greedy(NUM_TOKENS as u32);
    let answer = ask(&handle, &ids(&entry["prompt_ids"]), params);
    assert_eq!(answer.ids(), ids(&entry["fp32"]["ids"])[..NUM_TOKENS]);
}

#[test]
fn two_gpus_give_the_golden_tokens_of_tiny_models() {
    let emulator = quire_sim::load();
    emulator.plug_in(2);
    for name in ["llama3", "gemma3", "gpt_oss_mxfp4", "gemma4_26b", "llama4_scout"] {
        let family = FAMILIES.iter().find(|family| family.name == name).expect("a family");
        let (files, golden) = (family.open_gguf().expect("committed"), family.golden());
        let num_meetings = || emulator.num_sums() + emulator.num_launches_together();
        let before = num_meetings();
        let handle = start_files(&files, &gpus(2), &[]);
        for prompt in ["p0", "p1"] {
            let ids = golden.ids(&format!("{prompt}.greedy_ids"));
            let logits = golden.f32(&format!("{prompt}.greedy_logits"));
            let mut steps = logits.chunks(logits.len() / ids.len()).take(8);
            let is_tie = |logits: &[f32]| f64::from(gap(logits)) < MIN_MARGIN;
            let first_tie = steps.position(is_tie).unwrap_or(8);
            let params = SamplingParams::greedy(first_tie.max(1) as u32);
            let answer = ask(&handle, &golden.ids(&format!("{prompt}.input_ids")), params);
            assert_eq!(answer.ids()[..first_tie], ids[..first_tie], "{name} {prompt}");
        }
        assert!(num_meetings() > before, "{name}: the ranks have not met");
    }
}

/// They share steps, sample and see log probabilities.
fn answers(options: &EngineOptions, model: &Path) -> Vec<Answer> {
    let handle = start(model, options, &[3]);
    let submit = |index: u32| {
        let prompt = (0..3 + 7 * index).map(|i| (i * 37 + index * 11) % 500).collect();
        let params = SamplingParams {
            temperature: if index.is_multiple_of(2) { 0.0 } else { 0.8 },
            repetition_penalty: if index == 3 { 1.4 } else { 1.0 },
            logprobs: (index == 1).then_some(3),
            prompt_logprobs: (index == 2).then_some(2),
            constraint: Classes::default().constraint().filter(|_| index >= 2),
            seed: Some(7),
            ..SamplingParams::greedy(4 + 2 * index)
        };
        handle.generate(Request::new(prompt, params)).expect("valid")
    };
    let streams: Vec<_> = (0..4).map(submit).collect();
    streams.into_iter().map(collect).collect()
}

#[test]
fn graphs_and_steps_ahead_change_nothing_on_two_gpus() {
    let emulator = quire_sim::load();
    emulator.plug_in(2);
    let model = tiny_model("llama3");
    let plain = EngineOptions { enforce_eager: true, async_scheduling: Some(false), ..gpus(2) };
    let expected = answers(&plain, &model);
    for asynchrony in [Asynchrony::Lazy, Asynchrony::Eager] {
        emulator.run_streams(Some(asynchrony));
        let before = emulator.num_replays();
        assert!(answers(&gpus(2), &model) == expected, "{asynchrony:?}");
        assert!(emulator.num_replays() > before + 10, "graphs of both GPUs");
    }
}

fn faulty(fault: RankFault, rank_timeout: Duration) -> EngineOptions {
    let faults = Faults { on_other_rank: Some((2, fault)), ..Faults::default() };
    EngineOptions { faults, rank_timeout, ..gpus(2) }
}

#[test]
fn a_gpu_that_panics_or_hangs_ends_the_engine_with_a_word_to_everyone() {
    let emulator = quire_sim::load();
    emulator.plug_in(2);
    for asynchrony in [Asynchrony::Lazy, Asynchrony::Eager] {
        emulator.run_streams(Some(asynchrony));
        for (fault, timeout, expected) in [
            (RankFault::Panic, 60_000, "rank 1: planted"),
            (
                RankFault::Hang(Duration::from_secs(40)),
                500,
                "another rank did not come within 500ms",
            ),
        ] {
            let start_time = Instant::now();
            let timeout = Duration::from_millis(timeout);
            let handle = start(&tiny_model("llama3"), &faulty(fault, timeout), &[]);
            let request = || Request::new(vec![1, 2, 3], SamplingParams::greedy(8));
            let streams =
                [request(), request()].map(|request| handle.generate(request).expect("valid"));
            for stream in streams {
                let reason = collect_finish(stream);
                let FinishReason::Stopped(text) = &reason else { panic!("{reason:?}") };
                assert!(text.contains(expected), "{fault:?}, {asynchrony:?}: {text}");
            }
            while handle.health() != EngineHealth::Stopped {
                assert!(start_time.elapsed() < Duration::from_secs(30), "{:?}", handle.health());
                std::thread::yield_now();
            }
        }
    }
}

/// How a stream ended, whatever came before.
fn collect_finish(mut stream: TokenStream) -> FinishReason {
    loop {
        match stream.blocking_next() {
            Some(StreamEvent::Finished(finished)) => return finished.reason,
            Some(_) => {}
            None => panic!("a stream ends with Finished"),
        }
    }
}

#[test]
fn what_several_gpus_cannot_do_is_said_at_start() {
    let emulator = quire_sim::load();
    emulator.plug_in(2);
    let files = ModelFiles::open(&tiny_model("llama3")).expect("readable");
    let plan = |options: &EngineOptions| MemoryPlan::new(&files, options, &Machine::detect());
    let error = plan(&gpus(4)).expect_err("there are two").to_string();
    assert_eq!(
        error,
        "--tensor-parallel-size 4 takes the GPUs 0 to 3, but this machine has 2, counted from 0"
    );
    let faulty = faulty(RankFault::Load, Duration::from_secs(5));
    let plan = plan(&faulty).expect("it fits");
    assert_eq!(plan.place.line(), "GPUs 0 to 1: Quire's emulator, compute capability 9.0");
    let error = Engine::load(&files, &plan, &[], &|_, _| ()).err().expect("it is planted");
    assert_eq!(format!("{error:#}"), "rank 1 of 2: planted");
}
