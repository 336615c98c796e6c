//! Prints what precisions cost: the divergence of a model from its float32 self, for values of `--activations`.
//!
//! `quire tokenize MODEL < TEXT | cargo run --release -p quire-tests --example fidelity -- MODEL int8 mixed qkv,head`
//! measures these on the text, each with every type of the KV cache.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;
use std::path::Path;

use quire_engine::EngineOptions;
use quire_engine::config::{Activations, KvCacheDtype, Weights};
use quire_tests::windows::{Window, window_figures};
use quire_tests::{options, start};

const WINDOW_TOKENS: usize = 512;
const KV_CACHES: [(&str, KvCacheDtype); 4] = [
    ("f16", KvCacheDtype::F16),
    ("bf16", KvCacheDtype::BF16),
    ("fp8", KvCacheDtype::FP8),
    ("f32", KvCacheDtype::F32),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("name a model file, then values of --activations")?;
    let mixtures = arguments.map(|text| text.parse()).collect::<Result<Vec<Activations>, _>>()?;
    let text = std::io::read_to_string(std::io::stdin())?;
    let ids = text.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    let windows = float32_windows(Path::new(&model), &ids);

    println!("| activations | KV cache | divergence | mean difference of log probability |");
    println!("|:------------|:---------|-----------:|------------------------------------:|");
    for activations in mixtures {
        for (name, kv_cache_dtype) in KV_CACHES {
            let options = EngineOptions { activations, kv_cache_dtype, ..options() };
            let figures = window_figures(&start(Path::new(&model), &options, &[]), &windows);
            let (divergence, difference) = (figures.divergence, figures.mean_difference);
            println!("| {activations} | {name} | {divergence:.6} | {difference:.6} |");
        }
    }
    Ok(())
}

fn float32_windows(model: &Path, ids: &[u32]) -> Vec<Window> {
    let float32 = EngineOptions { weights: Weights::Float32, ..options() };
    let handle = start(model, &float32, &[]);
    ids.chunks(WINDOW_TOKENS).map(|ids| Window::of(&handle, ids)).collect()
}
