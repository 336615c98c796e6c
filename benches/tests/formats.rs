//! Each weight format end to end: a random model of it, packed, beside the float32 path that dequantizes the same file.

use std::path::Path;

use quire_benches::random_model::{Recipe, SHAPES, Shape, write};
use quire_benches::vocabulary::Vocabulary;
use quire_engine::config::{Activations, KvCacheDtype, Weights};
use quire_engine::request::StreamEvent;
use quire_engine::{
    Engine, EngineOptions, GgufFile, Machine, MemoryPlan, ModelFiles, Request, SamplingParams,
};
use quire_kernels::WeightFormat;

const NUM_TOKENS: u32 = 96;

/// Log probabilities of the whole vocabulary after each token of a prompt.
type Distributions = Vec<Vec<f64>>;

#[test]
fn every_format_is_near_its_float32_self() {
    println!("| format | int8: divergence | relative RMS | int16: divergence | relative RMS |");
    println!("|:-------|-----------------:|-------------:|------------------:|-------------:|");
    for format in WeightFormat::ALL {
        let files = model(SHAPES[0].1, format.name());
        let expected = distributions(&files, Weights::Float32, Activations::INT16);
        let [int8, int16] = [Activations::INT8, Activations::INT16]
            .map(|activations| distributions(&files, Weights::Packed, activations))
            .map(|got| (divergence(&expected, &got), relative_rms(&expected, &got)));
        println!(
            "| {format} | {:.1e} | {:.1e} | {:.1e} | {:.1e} |",
            int8.0, int8.1, int16.0, int16.1
        );
        assert!(int8.0 < 1e-3 && int8.1 < 0.03, "{format} int8: {int8:?}");
        assert!(int16.0 < 1e-7 && int16.1 < 3e-4, "{format} int16: {int16:?}");
    }
}

/// Three blocks of 256 channels: the first rank has two of them.
#[test]
fn two_ranks_share_an_odd_number_of_blocks() {
    let tiny = SHAPES[0].1;
    let shape = Shape { intermediate_size: 768, num_heads: 8, ..tiny };
    let files = model(shape, "Q4_K_M");
    let one = distributions(&files, Weights::Packed, Activations::INT16);
    let two = on_ranks(2, &files, Weights::Packed, Activations::INT16);
    let distance = relative_rms(&one, &two);
    println!("relative RMS {distance:.1e}");
    assert!(distance < 1e-3, "{distance}");
}

fn model(shape: Shape, format: &str) -> ModelFiles {
    let vocabulary = Vocabulary::new(shape.vocab_size).expect("enough tokens");
    let mut bytes = Vec::new();
    write(&shape, Recipe::named(format).expect(format), &vocabulary, &mut bytes).expect(format);
    GgufFile::from_bytes(Path::new("random.gguf"), bytes).expect(format).into()
}

fn distributions(files: &ModelFiles, weights: Weights, activations: Activations) -> Distributions {
    on_ranks(1, files, weights, activations)
}

fn on_ranks(
    tensor_parallel_size: usize,
    files: &ModelFiles,
    weights: Weights,
    activations: Activations,
) -> Distributions {
    let options = EngineOptions {
        tensor_parallel_size,
        weights,
        activations,
        kv_cache_dtype: KvCacheDtype::F32,
        threads: Some(2),
        kv_cache_memory: Some(4 << 20),
        max_logprobs: 512,
        ..EngineOptions::on_cpu()
    };
    let plan = MemoryPlan::new(files, &options, &Machine::detect()).expect("it fits");
    let engine = Engine::load(files, &plan, &[], &|_, _| ()).expect("it loads");
    let (handle, _) = engine.spawn().expect("it starts");
    let prompt = (0..NUM_TOKENS).map(|index| index * 37 % 512).collect();
    let params = SamplingParams { prompt_logprobs: Some(512), ..SamplingParams::greedy(1) };
    let mut stream = handle.generate(Request::new(prompt, params)).expect("valid");
    let Some(StreamEvent::Started(started)) = stream.blocking_next() else {
        panic!("a stream begins with Started");
    };
    let by_token = |top: &[(u32, f32)]| {
        let mut row = vec![f64::NAN; 512];
        top.iter().for_each(|&(token, logprob)| row[token as usize] = f64::from(logprob));
        row
    };
    started.prompt_logprobs.iter().flatten().map(|entry| by_token(&entry.top)).collect()
}

/// Mean KL divergence of the rows.
fn divergence(expected: &Distributions, got: &Distributions) -> f64 {
    let row = |(p, q): (&Vec<f64>, &Vec<f64>)| -> f64 {
        p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum()
    };
    expected.iter().zip(got).map(row).sum::<f64>() / expected.len() as f64
}

/// Root of the mean squared difference over that of the expected numbers around their mean.
fn relative_rms(expected: &Distributions, got: &Distributions) -> f64 {
    let (mut error, mut power) = (0.0, 0.0);
    for (p, q) in expected.iter().zip(got) {
        let mean = p.iter().sum::<f64>() / p.len() as f64;
        error += p.iter().zip(q).map(|(p, q)| (p - q).powi(2)).sum::<f64>();
        power += p.iter().map(|p| (p - mean).powi(2)).sum::<f64>();
    }
    (error / power).sqrt()
}
