//! Whole models with `--device cuda` on the emulator: the same engine, the same launches as on a GPU.

use quire_engine::config::{DeviceChoice, KvCacheDtype, Speculative, Weights};
use quire_engine::hidden_states::hidden_states;
use quire_engine::request::TokenOutput;
use quire_engine::{
    EngineHandle, EngineOptions, Machine, MemoryPlan, ModelFiles, Request, SamplingParams,
};
use quire_tests::distance::gap;
use quire_tests::families::FAMILIES;
use quire_tests::safetensors::Safetensors;
use quire_tests::windows::{ids, number, read};
use quire_tests::{
    ask, collect, default_model, options, speculative, speculative_at, start, start_files,
    tiny_model,
};
use serde_json::Value;

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
    // Of the prompts that have the most tokens before a tie, the shortest.
    let cost =
        |entry: &&Value| (NUM_TOKENS - num_before_tie(entry), ids(&entry["prompt_ids"]).len());
    let entries = prompts.values().filter(|entry| entry["fp32"].is_object());
    let entry = entries.min_by_key(cost).expect("there are prompts");
    let (prompt, ids) = (ids(&entry["prompt_ids"]), ids(&entry["fp32"]["ids"]));
    let first_tie = num_before_tie(entry);
    assert!(first_tie > NUM_TOKENS / 2, "only {first_tie} tokens before a tie");
    let answer = ask(&handle, &prompt, SamplingParams::greedy(NUM_TOKENS as u32));
    println!("{first_tie} tokens after a prompt of {}", prompt.len());
    assert_eq!(answer.ids()[..first_tie], ids[..first_tie]);
}

/// Golden tokens that rounding cannot change, `NUM_TOKENS` at most.
fn num_before_tie(entry: &Value) -> usize {
    let steps = entry["fp32"]["steps_id_logprob_runnerup_margin"].as_array().expect("steps");
    let is_tie = |step: &Value| number(&step[3]) <= MIN_MARGIN;
    steps.iter().take(NUM_TOKENS).position(is_tie).unwrap_or(steps.len().min(NUM_TOKENS))
}

/// Tiny models, one of each kind of layer without experts: windows with norms of all sorts, queries that are scaled by
/// position, Gated DeltaNet beside gated attention, embeddings for each layer and keys of others.
const KINDS: [&str; 4] = ["gemma3", "ministral3", "qwen35_vl", "gemma4_e2b"];

/// Tiny models with experts; those that are not committed are tried where they lie beside the repository.
const WITH_EXPERTS: [&str; 9] = [
    "gpt_oss_mxfp4",
    "gemma4_26b",
    "llama4_scout",
    "qwen3_next_small",
    "mixtral",
    "qwen3_moe",
    "glm4_moe",
    "gpt_oss",
    "llama4_maverick",
];

/// The greedy answer must be the golden one, as far as rounding cannot change it.
fn check_prompt(handle: &EngineHandle, golden: &Safetensors, prompt: &str) {
    let ids = golden.ids(&format!("{prompt}.greedy_ids"));
    let logits = golden.f32(&format!("{prompt}.greedy_logits"));
    let is_tie = |logits: &[f32]| f64::from(gap(logits)) < MIN_MARGIN;
    let mut steps = logits.chunks(logits.len() / ids.len()).take(NUM_TOKENS);
    let first_tie = steps.position(is_tie).unwrap_or(NUM_TOKENS.min(ids.len()));
    let params = SamplingParams::greedy(first_tie.max(1) as u32);
    let answer = ask(handle, &golden.ids(&format!("{prompt}.input_ids")), params);
    assert_eq!(answer.ids()[..first_tie], ids[..first_tie], "{prompt}");
}

#[test]
fn every_kind_of_layer_gives_the_golden_tokens() {
    let _emulator = quire_sim::load();
    for family in KINDS.into_iter().chain(WITH_EXPERTS) {
        let family = FAMILIES.iter().find(|known| known.name == family).expect("a tiny model");
        let name = family.name;
        let Some(files) = family.open() else {
            println!("{name}: not run, for it is not beside the repository");
            continue;
        };
        println!("{name}");
        let handle = start_files(&files, &cuda(), &[]);
        let golden = family.golden();
        for prompt in ["p0", "p1", "p2"] {
            check_prompt(&handle, &golden, prompt);
        }
    }
}

/// All others, where they lie beside the repository: of a prompt, the first tokens that rounding cannot change.
#[test]
fn every_tiny_model_runs() {
    let _emulator = quire_sim::load();
    let is_checked = |name| KINDS.contains(&name) || WITH_EXPERTS.contains(&name);
    for family in FAMILIES.iter().filter(|family| !is_checked(family.name)) {
        let Some(files) = family.open() else {
            println!("{}: not run, for it is not beside the repository", family.name);
            continue;
        };
        println!("{}", family.name);
        let handle = start_files(&files, &cuda(), &[]);
        let golden = family.golden();
        // Where experts are chosen it may be another token.
        let answer = ask(&handle, &golden.ids("p0.input_ids"), SamplingParams::greedy(2));
        assert_eq!(answer.tokens.len(), 2, "{}", family.name);
        if !family.chooses {
            check_prompt(&handle, &golden, "p0");
        }
    }
}

/// Tiny models whose rows come so close to other experts (and, of an indexer, other positions) that the rounding of BF16 leads
/// some of them there, and what follows has nothing of the golden numbers.
const LATENT: [&str; 2] = ["deepseek_v3", "glm5_shared"];

/// Layers before the first with experts, at the end of which nothing was chosen yet.
const NUM_DENSE: usize = 1;

#[test]
fn latent_attention_is_near_the_golden_numbers_until_experts_are_chosen() {
    let _emulator = quire_sim::load();
    for name in LATENT {
        let family = FAMILIES.iter().find(|known| known.name == name).expect("a tiny model");
        let files = ModelFiles::open(&tiny_model(name)).expect("committed");
        let golden = family.golden();
        for prompt in ["p0", "p1", "p2"] {
            let ids = golden.ids(&format!("{prompt}.input_ids"));
            let states = hidden_states(&files, &cuda(), &ids).expect("the model runs");
            let expected = golden.f32(&format!("{prompt}.hidden_last"));
            let rows = expected.chunks(states[0].len());
            for (index, (state, row)) in states.iter().zip(rows).take(NUM_DENSE + 1).enumerate() {
                let distance = relative_distance(state, row);
                println!("{name} {prompt}, before layer {index}: {distance}");
                assert!(distance < 0.02, "{name} {prompt}, before layer {index}: {distance}");
            }
        }
    }
}

/// ‖got − want‖ / ‖want‖
fn relative_distance(got: &[f32], want: &[f32]) -> f32 {
    let norm = |squares: &mut dyn Iterator<Item = f32>| squares.map(|x| x * x).sum::<f32>().sqrt();
    norm(&mut got.iter().zip(want).map(|(x, y)| x - y)) / norm(&mut want.iter().copied())
}

/// Their first layer alone, where nothing but an indexer chooses: the tokens of the CPU's float32, which has the golden numbers.
#[test]
fn latent_attention_without_experts_gives_the_tokens_of_float32() {
    let _emulator = quire_sim::load();
    let mut num_compared = 0;
    for name in LATENT {
        let files = ModelFiles::open(&tiny_model(name)).expect("committed");
        let family = FAMILIES.iter().find(|known| known.name == name).expect("a tiny model");
        let first_layer = EngineOptions { skipped_layers: NUM_DENSE..4, ..cuda() };
        let cpu = EngineOptions {
            device: DeviceChoice::Cpu,
            weights: Weights::Float32,
            ..first_layer.clone()
        };
        let handles = [&first_layer, &cpu].map(|options| start_files(&files, options, &[]));
        for prompt in ["p0", "p1", "p2"] {
            let ids = family.golden().ids(&format!("{prompt}.input_ids"));
            let params =
                SamplingParams { logprobs: Some(2), ..SamplingParams::greedy(NUM_TOKENS as u32) };
            let [gpu, cpu] = handles.each_ref().map(|handle| ask(handle, &ids, params.clone()));
            let is_tie = |token: &TokenOutput| {
                let top = &token.logprobs.as_ref().expect("asked for").top;
                f64::from(top[0].1 - top[1].1) < MIN_MARGIN
            };
            let first_tie = cpu.tokens.iter().position(is_tie).unwrap_or(NUM_TOKENS);
            assert_eq!(gpu.ids()[..first_tie], cpu.ids()[..first_tie], "{name} {prompt}");
            num_compared += first_tie;
        }
    }
    println!("{num_compared} tokens");
    assert!(num_compared > 20, "only {num_compared} tokens before ties");
}

/// Golden tokens that whole models give before rounding leads a row to other experts: of a prompt of `LATENT`'s models, so many. An
/// indexer chooses 48 positions of the 70 in p3.
const GOLDEN_OF_LATENT: [(&str, &str, usize); 5] = [
    ("deepseek_v3", "p0", 6),
    ("deepseek_v3", "p1", 4),
    ("glm5_shared", "p0", 16),
    ("glm5_shared", "p1", 6),
    ("glm5_shared", "p3", 4),
];

#[test]
fn whole_models_with_latent_attention_begin_with_the_golden_tokens() {
    let _emulator = quire_sim::load();
    for name in LATENT {
        let family = FAMILIES.iter().find(|known| known.name == name).expect("a tiny model");
        let (handle, golden) = (start(&tiny_model(name), &cuda(), &[]), family.golden());
        let of_model = GOLDEN_OF_LATENT.iter().filter(|(model, ..)| *model == name);
        for &(_, prompt, num_tokens) in of_model {
            let ids = golden.ids(&format!("{prompt}.greedy_ids"));
            let params = SamplingParams::greedy(num_tokens as u32);
            let answer = ask(&handle, &golden.ids(&format!("{prompt}.input_ids")), params);
            assert_eq!(answer.ids(), ids[..num_tokens], "{name} {prompt}");
        }
    }
}

/// Behind the experts only few rows were led elsewhere.
#[test]
fn latent_attention_gives_the_logprobs_of_the_cpu_at_most_positions() {
    let _emulator = quire_sim::load();
    for name in LATENT {
        let family = FAMILIES.iter().find(|known| known.name == name).expect("a tiny model");
        let (model, golden) = (tiny_model(name), family.golden());
        let handles = [DeviceChoice::Cuda(0), DeviceChoice::Cpu]
            .map(|device| start(&model, &EngineOptions { device, ..cuda() }, &[]));
        let mut gaps = Vec::new();
        for prompt in ["p0", "p1", "p2"] {
            let mut ids = golden.ids(&format!("{prompt}.input_ids"));
            ids.extend(golden.ids(&format!("{prompt}.greedy_ids")));
            let params = SamplingParams { prompt_logprobs: Some(0), ..SamplingParams::greedy(1) };
            let [gpu, cpu] =
                handles.each_ref().map(|handle| ask(handle, &ids, params.clone()).started);
            let both = gpu.prompt_logprobs.iter().zip(&cpu.prompt_logprobs).skip(1);
            gaps.extend(both.map(|(gpu, cpu)| {
                let [gpu, cpu] =
                    [gpu, cpu].map(|entry| entry.as_ref().expect("was asked for").logprob);
                (gpu - cpu).abs()
            }));
        }
        gaps.sort_by(f32::total_cmp);
        let (median, most) = (gaps[gaps.len() / 2], gaps[gaps.len() * 4 / 5]);
        println!("{name}, {}: {median} in the middle, {most} for four of five", gaps.len());
        assert!(gaps.len() > 80 && median < 0.15 && most < 0.4, "{name}: {median}, {most}");
    }
}

#[test]
fn neighbours_and_chunks_change_nothing() {
    let _emulator = quire_sim::load();
    for family in ["llama3", "gpt_oss_mxfp4", "gemma4_26b"].into_iter().chain(KINDS) {
        check_neighbours_and_chunks(family, &cuda());
    }
    // A single bit may lead a row to other experts.
    let same_bits = EngineOptions { batch_invariant: true, ..cuda() };
    LATENT.iter().for_each(|family| check_neighbours_and_chunks(family, &same_bits));
    let kv_cache_dtype = KvCacheDtype::FP8;
    let options = EngineOptions { kv_cache_dtype, batch_invariant: true, ..cuda() };
    check_neighbours_and_chunks("gemma3", &options);
}

fn check_neighbours_and_chunks(family: &str, options: &EngineOptions) {
    let requests: Vec<Request> = (0..5_u32)
        .map(|index| {
            let prompt = (0..3 + 9 * index).map(|i| (i * 37 + index * 11) % 500).collect();
            let temperature = if index % 2 == 0 { 0.0 } else { 0.8 };
            let params = SamplingParams { temperature, seed: Some(7), ..SamplingParams::greedy(6) };
            Request::new(prompt, params)
        })
        .collect();
    let model = tiny_model(family);
    let handle = start(&model, options, &[3]);
    let alone: Vec<Vec<u32>> = requests
        .iter()
        .map(|request| collect(handle.generate(request.clone()).expect("valid")).ids())
        .collect();
    for max_num_batched_tokens in [64, 9] {
        let budget = Some(max_num_batched_tokens);
        let options = EngineOptions { max_num_batched_tokens: budget, ..options.clone() };
        let handle = start(&model, &options, &[3]);
        let submit = |request: &Request| handle.generate(request.clone()).expect("valid");
        let streams: Vec<_> = requests.iter().map(submit).collect();
        let together: Vec<Vec<u32>> =
            streams.into_iter().map(|stream| collect(stream).ids()).collect();
        assert_eq!(alone, together, "{family}, {max_num_batched_tokens} tokens a step");
    }
}

/// Drafts of the same text, of the same model, and of half of its layers.
#[test]
fn guessed_tokens_change_nothing() {
    let _emulator = quire_sim::load();
    let model = tiny_model("llama3");
    let prompt = [5, 6, 7, 8].repeat(5);
    let params = SamplingParams { presence_penalty: -2.0, ..SamplingParams::greedy(12) };
    let expected = ask(&start(&model, &cuda(), &[]), &prompt, params.clone());
    for (method, least) in [
        (speculative("ngram"), 1),
        (speculative_at("draft", &model), 8),
        (speculative("skip:1-2"), 0),
    ] {
        let speculative =
            Some(Speculative { num_tokens: 3, is_adaptive: false, ..Speculative::new(method) });
        let what = format!("{speculative:?}");
        let handle = start(&model, &EngineOptions { speculative, ..cuda() }, &[]);
        assert_eq!(ask(&handle, &prompt, params.clone()).ids(), expected.ids(), "{what}");
        let drafts = handle.stats().drafts;
        let num_right: u64 = drafts.num_right.iter().sum();
        assert!(drafts.num_tokens > 0 && num_right >= least, "{what}: {drafts:?}");
    }
}

/// Keys and values of eight bits: the CPU's tokens, as far as rounding of activations cannot change them.
#[test]
fn a_cache_of_eight_bits_gives_the_tokens_of_the_cpu() {
    let _emulator = quire_sim::load();
    let mut num_compared = 0;
    for family in ["llama3", "gemma3", "qwen3"] {
        let model = tiny_model(family);
        let prompt: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % 500).collect();
        let params = SamplingParams { logprobs: Some(2), ..SamplingParams::greedy(8) };
        let answer = |device, kv_cache_dtype| {
            let options = EngineOptions { device, kv_cache_dtype, ..cuda() };
            ask(&start(&model, &options, &[]), &prompt, params.clone())
        };
        let cpu = answer(DeviceChoice::Cpu, KvCacheDtype::FP8);
        let gpu = answer(DeviceChoice::Cuda(0), KvCacheDtype::FP8);
        let top = |token: usize| &cpu.tokens[token].logprobs.as_ref().expect("asked for").top;
        let is_tie = |&token: &usize| f64::from(top(token)[0].1 - top(token)[1].1) < MIN_MARGIN;
        let first_tie = (0..8).find(is_tie).unwrap_or(8);
        assert_eq!(cpu.ids()[..first_tie], gpu.ids()[..first_tie], "{family}");
        assert!(gpu != answer(DeviceChoice::Cuda(0), KvCacheDtype::BF16), "{family}: eight bits?");
        num_compared += first_tie;
    }
    println!("{num_compared} tokens");
    assert!(num_compared > 6, "only {num_compared} tokens before ties");
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
    let curious = EngineOptions { max_logprobs: 3000, ..cuda() };
    assert!(plan(&curious).contains("--max-logprobs 3000"), "{}", plan(&curious));
    let greedy = EngineOptions { kv_cache_memory: Some(1 << 40), ..cuda() };
    assert!(plan(&greedy).contains("--kv-cache-memory"), "{}", plan(&greedy));
}
