//! Whole models with `--device cuda` on the emulator: the same engine, the same launches as on a GPU.

use quire_engine::config::DeviceChoice;
use quire_engine::{EngineOptions, Machine, MemoryPlan, ModelFiles, Request, SamplingParams};
use quire_tests::windows::{ids, number, read};
use quire_tests::{ask, collect, default_model, options, start, tiny_model};

/// Where the two likeliest tokens lie closer than this, the rounding of BF16 may choose either.
const MIN_MARGIN: f64 = 0.1;
const END_OF_TURN: u32 = 2;

/// Greedy tokens that are compared: each costs the emulator a whole step.
const NUM_TOKENS: usize = 8;

fn cuda() -> EngineOptions {
    EngineOptions {
        device: DeviceChoice::Cuda(0),
        max_model_len: Some(256),
        max_num_seqs: Some(8),
        max_num_batched_tokens: Some(64),
        ..options()
    }
}

#[test]
fn the_first_greedy_tokens_are_those_of_float32() {
    let _emulator = quire_sim::load();
    let handle = start(&default_model(), &cuda(), &[END_OF_TURN]);
    let golden = read("smollm2-135m.json");
    let prompts = golden["float32"].as_object().expect("prompts by text");
    let shortest = |entry: &&serde_json::Value| ids(&entry["prompt_ids"]).len();
    let entries = prompts.values().filter(|entry| entry["fp32"].is_object());
    let entry = entries.min_by_key(shortest).expect("there are prompts");
    let (prompt, ids) = (ids(&entry["prompt_ids"]), ids(&entry["fp32"]["ids"]));
    let steps = entry["fp32"]["steps_id_logprob_runnerup_margin"].as_array().expect("steps");
    let is_tie = |step: &serde_json::Value| number(&step[3]) <= MIN_MARGIN;
    let first_tie = steps.iter().position(is_tie).unwrap_or(ids.len()).min(NUM_TOKENS);
    assert!(first_tie > 2, "this prompt compares only {first_tie} tokens");
    let answer = ask(&handle, &prompt, SamplingParams::greedy(NUM_TOKENS as u32));
    assert_eq!(answer.ids()[..first_tie], ids[..first_tie]);
}

#[test]
fn neighbours_and_chunks_change_nothing() {
    let _emulator = quire_sim::load();
    let requests: Vec<Request> = (0..5_u32)
        .map(|index| {
            let prompt = (0..3 + 9 * index).map(|i| (i * 37 + index * 11) % 500).collect();
            let temperature = if index % 2 == 0 { 0.0 } else { 0.8 };
            let params = SamplingParams { temperature, seed: Some(7), ..SamplingParams::greedy(6) };
            Request::new(prompt, params)
        })
        .collect();
    let model = tiny_model("llama3");
    let handle = start(&model, &cuda(), &[3]);
    let alone: Vec<Vec<u32>> = requests
        .iter()
        .map(|request| collect(handle.generate(request.clone()).expect("valid")).ids())
        .collect();
    for max_num_batched_tokens in [64, 9] {
        let budget = Some(max_num_batched_tokens);
        let options = EngineOptions { max_num_batched_tokens: budget, ..cuda() };
        let handle = start(&model, &options, &[3]);
        let submit = |request: &Request| handle.generate(request.clone()).expect("valid");
        let streams: Vec<_> = requests.iter().map(submit).collect();
        let together: Vec<Vec<u32>> =
            streams.into_iter().map(|stream| collect(stream).ids()).collect();
        assert_eq!(alone, together, "{max_num_batched_tokens} tokens a step");
    }
}

#[test]
fn what_a_gpu_cannot_do_is_a_sentence() {
    let _emulator = quire_sim::load();
    let files = ModelFiles::open(&default_model()).expect("the model file is readable");
    let plan = |options: &EngineOptions| {
        let error = MemoryPlan::new(&files, options, &Machine::detect()).err();
        error.expect("it cannot be done").to_string()
    };
    let fifth = EngineOptions { device: DeviceChoice::Cuda(5), ..cuda() };
    assert!(plan(&fifth).contains("no GPU 5"), "{}", plan(&fifth));
    let greedy = EngineOptions { kv_cache_memory: Some(1 << 40), ..cuda() };
    assert!(plan(&greedy).contains("--kv-cache-memory"), "{}", plan(&greedy));
}
