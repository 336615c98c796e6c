//! Several ranks answer as one does, and a rank that fails or hangs is told, not waited for.

use std::time::{Duration, Instant};

use quire_engine::config::{Activations, Faults, KvCacheDtype, RankFault, Speculative, Weights};
use quire_engine::handle::EngineHealth;
use quire_engine::request::{FinishReason, StreamEvent};
use quire_engine::weights::gguf::GgufWriter;
use quire_engine::{
    Engine, EngineOptions, GgufFile, Machine, MemoryPlan, ModelFiles, Request, SamplingParams,
    TokenStream,
};
use quire_tests::distance::{Distance, check_prompt, prompts};
use quire_tests::families::{FAMILIES, Family, families_here};
use quire_tests::heads::{Head, with_head};
use quire_tests::random_models::unit;
use quire_tests::requests::{assert_equal, one_by_one, requests, together};
use quire_tests::windows::{ids, number, read};
use quire_tests::{
    Random, ask, collect, default_model, options, repository, start, start_files, tiny_model,
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
    let requests: Vec<Request> = requests(512, 60).into_iter().take(4).collect();
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
            let answers = together(&handle, &requests);
            assert_equal(&what, &expected, &answers);
            let cached = answers.iter().map(|answer| answer.started.num_cached_tokens);
            let cached: u32 = cached.sum();
            assert!(time == "first" || cached > 100, "{what}: only {cached} tokens");
        }
    }
}

/// Log probabilities of a prompt.
fn logprobs_of(files: &ModelFiles, options: &EngineOptions) -> Result<Vec<f64>, String> {
    let plan = MemoryPlan::new(files, options, &Machine::detect());
    let engine = plan.and_then(|plan| Engine::load(files, &plan, &[], &|_, _| ()));
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
        let one = logprobs_of(&open(&path), &with(options())).expect("it loads");
        match logprobs_of(&open(&path), &with(ranks(2))) {
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

const F32: u32 = 0;
const Q8_0: u32 = 8;
const Q4_K: u32 = 12;

/// A Mixtral of one layer, whose experts have `channels`, and whose last projection is of a quantized type; without experts a
/// Llama.
fn mixtral(num_experts: u32, channels: u64, ggml_type: u32) -> ModelFiles {
    let mut writer = GgufWriter::new();
    writer.string("general.architecture", "llama");
    writer.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    for (key, value) in [
        ("block_count", 1),
        ("context_length", 128),
        ("embedding_length", 32),
        ("feed_forward_length", channels as u32),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 4),
        ("expert_count", num_experts),
        ("expert_used_count", num_experts / 2),
    ] {
        writer.u32(&format!("llama.{key}"), value);
    }
    let of_experts = [
        ("blk.0.ffn_gate_inp.weight", &[32, 4][..], F32),
        ("blk.0.ffn_gate_exps.weight", &[32, channels, 4], F32),
        ("blk.0.ffn_up_exps.weight", &[32, channels, 4], F32),
        ("blk.0.ffn_down_exps.weight", &[channels, 32, 4], ggml_type),
    ];
    let dense = [
        ("blk.0.ffn_gate.weight", &[32, channels][..], F32),
        ("blk.0.ffn_up.weight", &[32, channels], F32),
        ("blk.0.ffn_down.weight", &[channels, 32], ggml_type),
    ];
    let others = [
        ("token_embd.weight", &[32, 50][..], F32),
        ("output_norm.weight", &[32], F32),
        ("blk.0.attn_norm.weight", &[32], F32),
        ("blk.0.attn_q.weight", &[32, 32], F32),
        ("blk.0.attn_k.weight", &[32, 32], F32),
        ("blk.0.attn_v.weight", &[32, 32], F32),
        ("blk.0.attn_output.weight", &[32, 32], F32),
        ("blk.0.ffn_norm.weight", &[32], F32),
    ];
    let ffn = if num_experts > 0 { &of_experts[..] } else { &dense };
    for &(name, dims, ggml_type) in others.iter().chain(ffn) {
        writer.tensor(name, dims, ggml_type).expect("a valid tensor");
    }
    let (mut random, mut bytes) = (Random::new(5), Vec::new());
    let written = writer.write(&mut bytes, |tensor, out| {
        // The factors of a block, about 2^-9 and 2^-12, and what they multiply.
        let (factors, codes): (&[u8], _) = match tensor.ggml_type {
            Q8_0 => (&[0, 0x18], 32),
            Q4_K => (&[0, 0x0C, 0, 0x0C], 140),
            _ => {
                let centre = if tensor.dims.len() == 1 { 1.0 } else { 0.0 };
                let mut number = || centre + 0.6 * (unit(&mut random) - 0.5);
                return (0..tensor.num_bytes / 4)
                    .try_for_each(|_| out.write_all(&number().to_le_bytes()));
            }
        };
        (0..tensor.num_bytes / (factors.len() as u64 + codes)).try_for_each(|_| {
            let codes: Vec<u8> = (0..codes).map(|_| random.below(256) as u8).collect();
            out.write_all(&[factors, &codes].concat())
        })
    });
    written.expect("memory is writable");
    GgufFile::from_bytes(std::path::Path::new("mixtral.gguf"), bytes).expect("a valid file").into()
}

/// Three blocks of channels on two ranks: two and one.
#[test]
fn experts_are_cut_between_blocks() {
    for (channels, ggml_type) in [(96, Q8_0), (768, Q4_K)] {
        let files = mixtral(4, channels, ggml_type);
        let with = |weights, options| {
            let activations = Activations::INT16;
            let options = EngineOptions { weights, activations, ..options };
            logprobs_of(&files, &options).expect("it loads")
        };
        for weights in [Weights::Float32, Weights::Packed] {
            let (one, two) = (with(weights, options()), with(weights, ranks(2)));
            let largest = one.iter().zip(&two).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            println!("{channels} {}: {largest:.1e}", weights.name());
            assert!(largest < 2e-3 && one.len() == 39, "{channels} {}: {largest}", weights.name());
        }
        let four = logprobs_of(&files, &ranks(4)).expect_err("three blocks are not four");
        assert!(four.contains("choose another --tensor-parallel-size"), "{four}");
    }
}

/// Three blocks of 256 channels on two ranks, an MLP's: 384 each, and 192 on four.
#[test]
fn an_mlp_is_cut_inside_of_blocks() {
    let files = mixtral(0, 768, Q4_K);
    for weights in [Weights::Float32, Weights::Packed] {
        let with = |options| {
            let activations = Activations::INT16;
            let options = EngineOptions { weights, activations, ..options };
            logprobs_of(&files, &options).expect("it loads")
        };
        let one = with(options());
        for num_ranks in [2, 4] {
            let several = with(ranks(num_ranks));
            let largest = one.iter().zip(&several).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            println!("{num_ranks} ranks, {}: {largest:.1e}", weights.name());
            assert!(largest < 2e-3 && one.len() == 39, "{num_ranks} {}: {largest}", weights.name());
        }
    }
}

fn guessing(method: &str) -> EngineOptions {
    let method = method.parse().expect("a proposer");
    let speculative = Speculative { num_tokens: 3, is_adaptive: false, ..Speculative::new(method) };
    EngineOptions { speculative: Some(speculative), ..ranks(2) }
}

#[test]
fn guesses_change_nothing_on_ranks_either() {
    let requests: Vec<Request> = requests(512, 50).into_iter().take(12).collect();
    let draft = |family: &str| format!("draft:{}", tiny_model(family).display());
    for (family, other) in [("llama3", "qwen3"), ("qwen35_vl", "gemma3")] {
        let model = tiny_model(family);
        let expected = one_by_one(&start(&model, &ranks(2), &[3]), &requests);
        for method in ["ngram", &draft(other), &draft(family), "skip:1-1"] {
            let what = format!("{family}, {method}");
            let handle = start(&model, &guessing(method), &[3]);
            assert_equal(&what, &expected, &together(&handle, &requests));
            assert_equal(&what, &expected, &together(&handle, &requests));
            let drafts = handle.stats().drafts;
            let num_right: u64 = drafts.num_right.iter().sum();
            assert!(drafts.num_tokens > 0, "{what}: {drafts:?}");
            // Itself, but on one rank, so that its sums differ in their last bits.
            let is_itself = method == draft(family);
            assert!(!is_itself || num_right * 10 > drafts.num_tokens * 9, "{what}: {drafts:?}");
        }
    }
}

#[test]
fn a_head_on_the_first_rank_changes_nothing() {
    let mut requests: Vec<Request> = requests(512, 50).into_iter().take(12).collect();
    for request in requests.iter_mut().step_by(2) {
        request.params.allowed_token_ids = Some((20..23).collect());
    }
    let model = tiny_model("llama3");
    let expected = one_by_one(&start(&model, &ranks(2), &[3]), &requests);
    // Those of untrained heads are hardly ever right: `eagle.rs` holds them to golden drafts, on ranks too.
    for (kind, head, least) in [
        ("EAGLE-3", Head::committed().guessing(&[20, 21, 22]), 20),
        ("EAGLE-1", Head::committed().as_eagle1(), 0),
        ("DFlash", Head::committed().as_dflash(), 0),
    ] {
        head.written(&format!("ranks-{kind}"), |head| {
            let handle = start(&model, &with_head(head, 3, ranks(2)), &[3]);
            assert_equal(kind, &expected, &together(&handle, &requests));
            assert_equal(kind, &expected, &together(&handle, &requests));
            let drafts = handle.stats().drafts;
            let num_right: u64 = drafts.num_right.iter().sum();
            assert!(drafts.num_tokens > 0 && num_right >= least, "{kind}: {drafts:?}");
        });
    }
}

/// Keys and values of eight bits round what ranks sum in other orders: the same answers whatever the company, and near those of
/// one rank.
#[test]
fn a_cache_of_eight_bits_is_as_good_on_ranks() {
    let requests: Vec<Request> = requests(512, 50).into_iter().take(12).collect();
    for family in ["llama3", "gemma3", "deepseek_v3"] {
        let eight_bits = |options| EngineOptions { kv_cache_dtype: KvCacheDtype::FP8, ..options };
        let model = tiny_model(family);
        let expected = one_by_one(&start(&model, &eight_bits(ranks(2)), &[3]), &requests);
        let handle = start(&model, &eight_bits(guessing("ngram")), &[3]);
        assert_equal(family, &expected, &together(&handle, &requests));
        assert_equal(family, &expected, &together(&handle, &requests));

        let files = open(&model);
        let float32 = |options| EngineOptions { weights: Weights::Float32, ..eight_bits(options) };
        let near = |options| logprobs_of(&files, &float32(options)).expect("it loads");
        let (one, two) = (near(options()), near(ranks(2)));
        let mean = one.iter().zip(&two).map(|(a, b)| (a - b).abs()).sum::<f64>() / 39.0;
        println!("{family}: mean |difference of log probability| {mean:.1e}");
        assert!(mean < 0.05, "{family}: {mean}");
    }
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
        let plan = MemoryPlan::new(&files, options, &Machine::detect());
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
    let plan = MemoryPlan::new(&files, &options, &Machine::detect());
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
        let FinishReason::Stopped(text) = &reason else { panic!("{reason:?}") };
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
