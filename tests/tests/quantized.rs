//! Quantized directories end to end: packed weights beside the same weights as float32.

use quire_engine::config::{Activations, KvCacheDtype, Weights};
use quire_engine::{EngineOptions, SamplingParams};
use quire_tests::{ask, options, repository, start};

const VOCAB_SIZE: u32 = 32;

/// Log probabilities of the whole vocabulary after each token of a prompt of 120.
fn distributions(layout: &str, weights: Weights, activations: Activations) -> Vec<Vec<f64>> {
    let path = repository(&format!("tests/data/quantized/{layout}"));
    let kv_cache_dtype = KvCacheDtype::F32;
    let options = EngineOptions { weights, activations, kv_cache_dtype, ..options() };
    let handle = start(&path, &options, &[]);
    let prompt: Vec<u32> = (0..120).map(|index| index * 13 % 32).collect();
    let params = SamplingParams { prompt_logprobs: Some(VOCAB_SIZE), ..SamplingParams::greedy(1) };
    let answer = ask(&handle, &prompt, params);
    let rows = answer.started.prompt_logprobs.iter().flatten();
    rows.map(|entry| {
        let mut row = vec![f64::NAN; VOCAB_SIZE as usize];
        entry.top.iter().for_each(|&(token, logprob)| row[token as usize] = f64::from(logprob));
        row
    })
    .collect()
}

#[test]
fn packed_layouts_answer_as_their_float32_selves() {
    let folder = std::fs::read_dir(repository("tests/data/quantized")).expect("a folder");
    let mut layouts: Vec<String> = folder
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    layouts.sort();
    for layout in layouts {
        let expected = distributions(&layout, Weights::Float32, Activations::INT16);
        for (activations, limit) in [(Activations::INT16, 3e-4), (Activations::INT8, 0.03)] {
            let got = distributions(&layout, Weights::Packed, activations);
            let distance = relative_rms(&expected, &got);
            println!("{layout} {activations}: {distance:.1e}");
            assert!(distance <= limit, "{layout} {activations}: {distance}");
        }
    }
}

/// Root of the mean squared difference over that of the expected numbers around their mean.
fn relative_rms(expected: &[Vec<f64>], got: &[Vec<f64>]) -> f64 {
    let (mut error, mut power) = (0.0, 0.0);
    for (p, q) in expected.iter().zip(got) {
        let mean = p.iter().sum::<f64>() / p.len() as f64;
        error += p.iter().zip(q).map(|(p, q)| (p - q).powi(2)).sum::<f64>();
        power += p.iter().map(|p| (p - mean).powi(2)).sum::<f64>();
    }
    (error / power).sqrt()
}
