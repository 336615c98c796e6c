//! `--load-format dummy`: models made from a config.json alone.

use std::path::{Path, PathBuf};

use quire_engine::config::{DeviceChoice, WeightFormat};
use quire_engine::models::{ModelSpec, spec_of};
use quire_engine::request::FinishReason;
use quire_engine::{EngineOptions, ModelFiles, Request, SamplingParams};
use quire_tests::families::FAMILIES;
use quire_tests::{Answer, ask, collect, options, repository, start_files};

fn llama3() -> PathBuf {
    repository("tests/data/conformance/hf/llama3")
}

fn dummy(path: &Path, format: WeightFormat) -> ModelFiles {
    ModelFiles::dummy(path, format).expect("config.json is enough")
}

fn greedy(files: &ModelFiles, options: &EngineOptions) -> Answer {
    let handle = start_files(files, options, &[]);
    let params = SamplingParams { logprobs: Some(1), ..SamplingParams::greedy(6) };
    ask(&handle, &[1, 7, 20, 3, 9], params)
}

/// Where experts may be cut between ranks is a matter of the format of their weights.
fn in_any_format(mut spec: ModelSpec) -> ModelSpec {
    if let ModelSpec::Decoder(decoder) = &mut spec
        && let Some(experts) = &mut decoder.moe
    {
        experts.block_channels = 1;
    }
    spec
}

#[test]
fn a_configuration_alone_leads_to_the_model_that_its_weights_lead_to() {
    let mut num_families = 0;
    for family in FAMILIES {
        let (Some(path), family) = (family.directory(), family.name) else { continue };
        let of_weights = spec_of(&ModelFiles::open(&path).expect(family)).expect(family);
        let files = dummy(&path, WeightFormat::BF16);
        let of_dummy = spec_of(&files).expect(family);
        assert_eq!(in_any_format(of_dummy), in_any_format(of_weights), "{family}");
        let answer = greedy(&files, &options());
        assert_eq!(answer.finished.reason, FinishReason::Length, "{family}");
        num_families += 1;
    }
    assert!(num_families >= 5, "only {num_families} families");
}

#[test]
fn every_start_makes_the_same_weights_in_any_format() {
    let path = llama3().join("config.json");
    for format in [WeightFormat::BF16, WeightFormat::Q4_0, WeightFormat::Q8_0, WeightFormat::F32] {
        let first = greedy(&dummy(&path, format), &options());
        assert_eq!(first.finished.reason, FinishReason::Length, "{format}");
        assert_eq!(first, greedy(&dummy(&path, format), &options()), "{format}");
    }
}

#[test]
fn a_gpu_makes_the_weights_that_the_cpu_makes() {
    let _emulator = quire_sim::load();
    let path = llama3();
    let cuda = EngineOptions {
        device: DeviceChoice::Cuda(0),
        max_num_seqs: Some(4),
        max_num_batched_tokens: Some(32),
        ..options()
    };
    for format in [WeightFormat::BF16, WeightFormat::Q4_0] {
        let likeliest = |options: &EngineOptions| {
            let handle = start_files(&dummy(&path, format), options, &[]);
            let params = SamplingParams { logprobs: Some(512), ..SamplingParams::greedy(1) };
            let request = Request::new(vec![1, 7, 20, 3, 9], params);
            let answer = collect(handle.generate(request).expect("valid"));
            let mut top = answer.tokens[0].logprobs.clone().expect("asked for").top;
            top.sort_by_key(|&(token, _)| token);
            top.iter().map(|&(_, logprob)| f64::from(logprob)).collect::<Vec<f64>>()
        };
        let (cpu, gpu) = (likeliest(&options()), likeliest(&cuda));
        let differences = cpu.iter().zip(&gpu).map(|(a, b)| (a - b).abs());
        let mean = differences.sum::<f64>() / cpu.len() as f64;
        println!("{format}: {mean}");
        // Rounding of activations; other weights would be about 1 apart.
        assert!(cpu.len() > 100 && mean < 0.1, "{format}: {mean}");
    }
}
