//! Several ranks answer as one does, and a rank that fails or hangs is told, not waited for.

use std::time::{Duration, Instant};

use quire_engine::config::{
    Activations, Faults, RankFault, Speculative, SpeculativeMethod, Weights,
};
use quire_engine::handle::EngineHealth;
use quire_engine::request::{FinishReason, StreamEvent};
use quire_engine::{EngineOptions, MemoryPlan, ModelFiles, Request, SamplingParams, TokenStream};
use quire_tests::windows::{ids, number, read};
use quire_tests::{ask, collect, default_model, options, start, tiny_model};

fn ranks(tensor_parallel_size: usize) -> EngineOptions {
    EngineOptions { tensor_parallel_size, threads: Some(tensor_parallel_size), ..options() }
}

/// The first greedy tokens of prompts that share steps, chunks and blocks.
fn answers(options: &EngineOptions, model: &std::path::Path) -> Vec<Vec<u32>> {
    let handle = start(model, options, &[]);
    let prompt = |index: u32| (0..5 + 11 * index).map(|i| (i * 37 + index * 11) % 500).collect();
    let params = SamplingParams { prompt_logprobs: Some(1), ..SamplingParams::greedy(8) };
    let submit = |prompt: Vec<u32>| handle.generate(Request::new(prompt, params.clone()));
    let streams: Vec<_> = (0..5).map(|index| submit(prompt(index)).expect("valid")).collect();
    streams.into_iter().map(|stream| collect(stream).ids()).collect()
}

#[test]
fn ranks_answer_as_one_in_every_family_that_can_be_divided() {
    // Sums are taken in another order, so logits differ in their last bits; float32 leaves room for no other token.
    let float32 = EngineOptions { weights: Weights::Float32, ..options() };
    for (family, num_ranks) in
        [("llama3", 2), ("qwen3", 2), ("gemma3", 2), ("phi4mini", 2), ("ministral3", 2)]
    {
        let model = tiny_model(family);
        let one = answers(&float32, &model);
        for max_num_batched_tokens in [None, Some(7)] {
            let options = EngineOptions {
                tensor_parallel_size: num_ranks,
                max_num_batched_tokens,
                max_num_seqs: Some(5),
                ..float32.clone()
            };
            let found = answers(&options, &model);
            assert_eq!(found, one, "{family}, {max_num_batched_tokens:?} tokens a step");
        }
    }
}

#[test]
fn guesses_change_nothing_on_ranks_either() {
    let model = tiny_model("llama3");
    let speculative =
        Speculative { method: SpeculativeMethod::Ngram, num_tokens: 3, is_adaptive: false };
    let guessing = EngineOptions { speculative: Some(speculative), ..ranks(2) };
    assert_eq!(answers(&guessing, &model), answers(&ranks(2), &model));
}

#[test]
fn the_golden_prompts_give_the_golden_text_on_three_ranks() {
    let options = EngineOptions { weights: Weights::Float32, ..ranks(3) };
    let handle = start(&default_model(), &options, &[2]);
    let golden = read("smollm2-135m.json");
    let prompts = golden["float32"].as_object().expect("prompts by text");
    let entries = prompts.iter().filter(|(_, entry)| entry["fp32"].is_object());
    for (text, entry) in entries.take(3) {
        let (prompt, ids) = (ids(&entry["prompt_ids"]), ids(&entry["fp32"]["ids"]));
        let steps = entry["fp32"]["steps_id_logprob_runnerup_margin"].as_array().expect("steps");
        let is_tie = |step: &serde_json::Value| number(&step[3]) <= 0.01;
        let before_tie = steps.iter().position(is_tie).unwrap_or(ids.len()).min(12);
        let answer = ask(&handle, &prompt, SamplingParams::greedy(before_tie.max(1) as u32));
        assert_eq!(answer.ids()[..before_tie], ids[..before_tie], "{text}");
    }
}

#[test]
fn packed_weights_are_cut_at_the_borders_of_their_blocks() {
    let log_probability = |num_ranks| {
        let options = EngineOptions { activations: Activations::INT16, ..ranks(num_ranks) };
        let handle = start(&default_model(), &options, &[]);
        let params = SamplingParams { prompt_logprobs: Some(1), ..SamplingParams::greedy(1) };
        let prompt: Vec<u32> = (0..40).map(|i| 1000 + 37 * i).collect();
        let entries = ask(&handle, &prompt, params).started.prompt_logprobs;
        entries.iter().flatten().map(|entry| f64::from(entry.logprob)).collect::<Vec<_>>()
    };
    let (one, three) = (log_probability(1), log_probability(3));
    assert_eq!(one.len(), 39);
    let difference = one.iter().zip(&three).map(|(a, b)| (a - b).abs()).sum::<f64>() / 39.0;
    println!("mean |difference of log probability| {difference}");
    // Rounding to 16 bits magnifies the last bits of sums a little; a wrong column or row shows above 1.
    assert!(difference < 0.01, "{difference}");
}

#[test]
fn sizes_that_do_not_divide_the_model_are_refused_by_name() {
    let refusal = |options: &EngineOptions, model: &std::path::Path| {
        let files = ModelFiles::open(model).expect("readable");
        let plan = MemoryPlan::new(&files, options, &quire_engine::Machine::detect());
        plan.expect_err("it is refused").to_string()
    };
    assert_eq!(
        refusal(&ranks(2), &default_model()),
        "--tensor-parallel-size 2 does not divide 9 heads with 3 KV heads; 1, 3 or 9 would"
    );
    let more = EngineOptions { threads: Some(2), ..ranks(3) };
    assert_eq!(
        refusal(&more, &default_model()),
        "--tensor-parallel-size 3 is more than the 2 compute threads (--threads)"
    );
    assert_eq!(
        refusal(&ranks(2), &tiny_model("gpt_oss_mxfp4")),
        "--tensor-parallel-size 2: layers with experts cannot be divided yet"
    );
}

fn faulty(fault: RankFault, rank_timeout: Duration) -> EngineOptions {
    let faults = Faults { on_other_rank: Some((1, fault)), ..Faults::default() };
    EngineOptions { faults, rank_timeout, ..ranks(2) }
}

#[test]
fn a_rank_that_panics_or_is_late_costs_a_step_and_no_request() {
    let model = tiny_model("llama3");
    let healthy = answers(&ranks(2), &model);
    let timeout = Duration::from_millis(400);
    for fault in [RankFault::Panic, RankFault::Hang(Duration::from_millis(600))] {
        assert_eq!(answers(&faulty(fault, timeout), &model), healthy, "{fault:?}");
    }
}

#[test]
fn a_rank_that_hangs_ends_the_engine_with_a_word_to_everyone() {
    let start_time = Instant::now();
    let fault = RankFault::Hang(Duration::from_secs(20));
    let handle = start(&tiny_model("llama3"), &faulty(fault, Duration::from_millis(200)), &[]);
    let request = || Request::new(vec![1, 2, 3], SamplingParams::greedy(8));
    let streams = [request(), request()].map(|request| handle.generate(request).expect("valid"));
    for stream in streams {
        let reason = collect_finish(stream);
        let FinishReason::Error(text) = &reason else { panic!("{reason:?}") };
        assert!(text.contains("another rank did not come within 200ms"), "{text}");
    }
    while handle.health() != EngineHealth::Stopped {
        assert!(start_time.elapsed() < Duration::from_secs(15), "{:?}", handle.health());
        std::thread::yield_now();
    }
    assert!(handle.generate(request()).is_err(), "a stopped engine takes nothing");
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
