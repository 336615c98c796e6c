//! `--dtype`: in which type weights are kept that the file has as floats, and where that cannot be.

use std::path::PathBuf;

use quire_engine::config::{DeviceChoice, Dtype, Weights};
use quire_engine::{EngineOptions, Machine, MemoryPlan, ModelFiles, SamplingParams};
use quire_tests::distance::{Distance, check_prompt};
use quire_tests::safetensors::Safetensors;
use quire_tests::{ask, options, repository, start, tiny_model};

fn with(dtype: Dtype) -> EngineOptions {
    EngineOptions { dtype, ..options() }
}

/// One of the committed models.
fn directory(name: &str) -> PathBuf {
    repository("tests/data/conformance/hf").join(name)
}

fn plan(files: &ModelFiles, options: &EngineOptions) -> Result<MemoryPlan, String> {
    MemoryPlan::new(files, options, &Machine::detect()).map_err(|error| format!("{error:#}"))
}

#[test]
fn weights_of_floats_are_kept_in_the_type_that_is_asked_for() {
    let path = directory("llama3");
    let golden = repository("tests/data/conformance/llama3.safetensors");
    let golden = Safetensors::open(&golden);
    let files = ModelFiles::open(&path).expect("readable");
    let bytes = |dtype| plan(&files, &with(dtype)).expect("it fits").weight_bytes;
    // The file has BF16; norms are F32 whatever the flag says.
    let [auto, wide] = [Dtype::Auto, Dtype::Float32].map(bytes);
    assert_eq!([Dtype::Bfloat16, Dtype::Float16].map(bytes), [auto, auto]);
    assert!(wide > auto + auto / 2, "{wide} beside {auto}");
    let ids = golden.ids("p2.input_ids");
    let answer =
        |dtype| ask(&start(&path, &with(dtype), &[]), &ids, SamplingParams::greedy(16)).ids();
    // Wider, the same numbers; narrower, those of the file.
    assert_eq!(answer(Dtype::Auto), answer(Dtype::Bfloat16));
    assert_eq!(answer(Dtype::Auto), answer(Dtype::Float32));
    let half = start(&path, &with(Dtype::Float16), &[]);
    let mut distance = Distance::default();
    check_prompt(&half, &golden, "p2", 0.1, &mut distance);
    assert!(distance.mean() < 0.05, "{distance:?}");
}

#[test]
fn what_cannot_be_is_said() {
    let quantized = ModelFiles::open(&tiny_model("gpt_oss_mxfp4")).expect("readable");
    let error = plan(&quantized, &with(Dtype::Bfloat16)).map(|_| ()).unwrap_err();
    assert!(error.contains("leave --dtype out, or use --weights float32"), "{error}");
    let both = EngineOptions { weights: Weights::Float32, ..with(Dtype::Float32) };
    assert!(plan(&quantized, &both).is_ok(), "both ask for the same");
    let encoder = ModelFiles::open(&directory("bert")).expect("readable");
    let cuda = EngineOptions { device: DeviceChoice::Cuda(0), ..options() };
    let error = plan(&encoder, &cuda).map(|_| ()).unwrap_err();
    assert!(error.contains("--device cpu"), "{error}");
    let budget = EngineOptions { max_num_batched_tokens: Some(300), ..options() };
    let error = plan(&encoder, &budget).map(|_| ()).unwrap_err();
    assert!(error.contains("--max-num-batched-tokens 300 is below the 320 tokens"), "{error}");
    let shorter = EngineOptions { max_model_len: Some(300), ..budget };
    assert_eq!(plan(&encoder, &shorter).expect("it fits").config.max_model_len, 300);
}

/// A 30 GB model in 24 GB, in small: refused before anything is loaded, with what would fit.
#[test]
fn a_model_that_does_not_fit_is_refused_with_what_would() {
    let machine = |available_memory| Machine { available_memory, ..Machine::detect() };
    for path in ["llama3", "bert"].map(directory) {
        let files = ModelFiles::open(&path).expect("readable");
        let small = EngineOptions {
            max_num_batched_tokens: Some(320),
            max_num_seqs: Some(1),
            max_model_len: Some(64),
            kv_cache_memory: None,
            ..options()
        };
        let whole = plan(&files, &small).expect("it fits");
        let rest = whole.workspace_bytes + if whole.spec.is_encoder() { whole.kv_bytes } else { 0 };
        let refused = |bytes| {
            let plan = MemoryPlan::new(&files, &small, &machine(bytes));
            format!("{:#}", plan.map(|_| ()).expect_err("too little"))
        };
        let half = refused(rest + whole.weight_bytes / 2);
        assert!(half.contains("bits each: use a more quantized file"), "{half}");
        let little = refused(rest + whole.weight_bytes / 20);
        assert!(little.contains("would fit: use a smaller model"), "{little}");
        let nothing = refused(rest / 2);
        assert!(nothing.contains("the workspace alone takes more"), "{nothing}");
        assert!(nothing.ends_with("or lower --max-num-batched-tokens"), "{nothing}");
    }
}
