//! Prints what precisions cost: the divergence of the default model from float32 for values of `--activations`.
//!
//! `cargo run --release -p quire-tests --example fidelity -- int8 mixed qkv,head int16` measures these, each with a float16,
//! bfloat16 and float32 KV cache.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what it is for")]

use std::process::ExitCode;

use quire_engine::EngineOptions;
use quire_engine::config::{Activations, KvCacheDtype};
use quire_tests::windows::window_figures;
use quire_tests::{default_model, options, start};

const KV_CACHES: [(&str, KvCacheDtype); 3] =
    [("f16", KvCacheDtype::F16), ("bf16", KvCacheDtype::BF16), ("f32", KvCacheDtype::F32)];

fn main() -> ExitCode {
    let parsed: Result<Vec<Activations>, String> =
        std::env::args().skip(1).map(|argument| argument.parse()).collect();
    let mixtures = match parsed {
        Ok(mixtures) => mixtures,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!("| activations | KV cache | divergence | mean difference of log probability |");
    println!("|:--|:--|--:|--:|");
    for activations in mixtures {
        for (name, kv_cache_dtype) in KV_CACHES {
            let options = EngineOptions { activations, kv_cache_dtype, ..options() };
            let handle = start(&default_model(), &options, &[]);
            let figures = window_figures(&handle, usize::MAX);
            let (divergence, difference) = (figures.divergence, figures.mean_difference);
            println!("| {activations} | {name} | {divergence:.6} | {difference:.6} |");
        }
    }
    ExitCode::SUCCESS
}
