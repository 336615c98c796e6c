//! Several ranks answer as one does, and a rank that fails or hangs is told, not waited for.

use std::time::{Duration, Instant};

use quire_engine::config::{
    Activations, Faults, RankFault, Speculative, SpeculativeMethod, Weights,
};
use quire_engine::handle::EngineHealth;
use quire_engine::request::{FinishReason, StreamEvent};
use quire_engine::{
    Engine, EngineOptions, MemoryPlan, ModelFiles, Request, SamplingParams, TokenStream,
};
use quire_tests::distance::{Distance, check_prompt, prompts};
use quire_tests::families::{FAMILIES, Family, families_here};
use quire_tests::requests::{assert_equal, one_by_one, requests, together};
use quire_tests::windows::{ids, number, read};
use quire_tests::{
    ask, collect, default_model, options, repository, start, start_files, tiny_model,
};

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

/// Sums are taken in another order, so logits differ in their last bits. The limits are those of one rank.
fn check_golden(family: &Family, files: &ModelFiles, tensor_parallel_size: usize) {
    let options = EngineOptions {
        tensor_parallel_size,
        threads: Some(tensor_parallel_size),
        ..family.options(Weights::Float32)
    };
    let (handle, mut distance) = (start_files(files, &options, &[]), Distance::default());
    for prompt in prompts().iter().step_by(3) {
        check_prompt(&handle, &family.golden(), prompt, 0.0, &mut distance);
    }
    assert!(distance.largest <= 2e-3, "{}: {distance:?}", family.name);
}

#[test]
fn two_ranks_give_the_golden_numbers_of_every_family() {
    families_here().for_each(|(family, files)| check_golden(family, &files, 2));
    // Where directories have weights in another order than GGUF.
    for name in ["qwen35_vl", "gpt_oss_mxfp4"] {
        let family = FAMILIES.iter().find(|family| family.name == name).expect("a family");
        check_golden(family, &open(&family.directory().expect("committed")), 2);
    }
}

fn open(path: &std::path::Path) -> ModelFiles {
    ModelFiles::open(path).expect("the model is readable")
}

#[test]
fn ranks_that_are_more_than_kv_heads_share_them() {
    // Four heads, and two KV heads or one; latent attention has one for all.
    for name in ["llama3", "gemma3", "gemma4_e2b", "llama4_scout", "deepseek_v3"] {
        let family = FAMILIES.iter().find(|family| family.name == name).expect("a family");
        check_golden(family, &family.open_gguf().expect("committed"), 4);
    }
}

/// Two ranks sum in another order than one, but always in the same.
#[test]
fn every_equality_holds_on_ranks_too() {
    let requests: Vec<Request> = requests(512, 60).into_iter().take(6).collect();
    for (family, files) in families_here() {
        let on_ranks = EngineOptions { tensor_parallel_size: 2, ..family.options(Weights::Packed) };
        let alone = EngineOptions { enable_prefix_caching: false, ..on_ranks.clone() };
        let expected = one_by_one(&start_files(&files, &alone, &[3]), &requests);
        let options = EngineOptions {
            max_num_batched_tokens: Some(33),
            async_scheduling: Some(true),
            prefix_cache_memory: Some(64 << 20),
            block_size: Some(8),
            ..on_ranks
        };
        let handle = start_files(&files, &options, &[3]);
        for time in ["first", "cached"] {
            let what = format!("{}, in chunks, a step ahead, {time}", family.name);
            assert_equal(&what, &expected, &together(&handle, &requests));
        }
    }
}

/// Log probabilities of a prompt.
fn prompt_logprobs(path: &std::path::Path, options: &EngineOptions) -> Result<Vec<f64>, String> {
    let files = open(path);
    let plan = MemoryPlan::new(&files, options, &quire_engine::Machine::detect());
    let engine = plan.and_then(|plan| Engine::load(&files, &plan, &[], &|_, _| ()));
    let engine = engine.map_err(|error| format!("{error:#}"))?;
    let handle = engine.spawn().expect("the engine starts").0;
    let params = SamplingParams { prompt_logprobs: Some(1), ..SamplingParams::greedy(1) };
    let prompt: Vec<u32> = (0..40).map(|index| index * 13 % 32).collect();
    let entries = ask(&handle, &prompt, params).started.prompt_logprobs;
    Ok(entries.iter().flatten().map(|entry| f64::from(entry.logprob)).collect())
}

#[test]
fn quantized_directories_are_cut_at_the_borders_of_groups_or_refused() {
    let mut refused = Vec::new();
    let folder = std::fs::read_dir(repository("tests/data/quantized")).expect("a folder");
    for path in folder.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir()) {
        let layout = path.file_name().expect("a name").to_string_lossy().into_owned();
        let with = |options| EngineOptions { activations: Activations::INT16, ..options };
        let one = prompt_logprobs(&path, &with(options())).expect("it loads");
        match prompt_logprobs(&path, &with(ranks(2))) {
            Ok(two) => {
                let differences = one.iter().zip(&two).map(|(a, b)| (a - b).abs());
                let largest = differences.fold(0.0, f64::max);
                println!("{layout}: {largest:.1e}");
                assert!(largest < 1e-3 && one.len() == 39, "{layout}: {largest}");
            }
            Err(text) => {
                println!("{layout}: {text}");
                assert!(text.contains("choose another --tensor-parallel-size"), "{text}");
                refused.push(layout);
            }
        }
    }
    refused.sort();
    // Rows of 192 in halves: groups of 64 or 128 end elsewhere, and act-order leaves no order to cut.
    let expected = [
        "auto-round",
        "awq",
        "compressed-int4",
        "fp8-block",
        "gptq",
        "gptq-int8",
        "gptq-order",
        "gptq-v2",
    ];
    assert_eq!(refused, expected);
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
        refusal(&ranks(4), &tiny_model("qwen35_vl")),
        "--tensor-parallel-size 4 does not divide the key heads of Gated DeltaNet, 2"
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
fn a_rank_that_cannot_be_loaded_is_an_error_at_start() {
    let files = ModelFiles::open(&tiny_model("llama3")).expect("readable");
    let options = faulty(RankFault::Load, Duration::from_secs(5));
    let plan = MemoryPlan::new(&files, &options, &quire_engine::Machine::detect());
    let error = Engine::load(&files, &plan.expect("it fits"), &[], &|_, _| ()).err();
    assert_eq!(format!("{:#}", error.expect("it is planted")), "rank 1 of 2: planted");
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
