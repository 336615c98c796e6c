//! What command lines come to.

use std::time::Duration;

use anyhow::bail;
use clap::CommandFactory;
use quire_engine::EngineOptions;
use quire_engine::config::{
    Activations, DeviceChoice, KvCacheDtype, LinearKind, SchedulingPolicy, SimdLevel, Speculative,
    Weights,
};
use quire_server::app::ServerConfig;

use super::*;

fn serve_args(line: &str) -> Result<Box<ServeArgs>> {
    let words = ["quire", "serve"].into_iter().chain(line.split_whitespace());
    let args = Args::try_parse_from(words)?;
    let Command::Serve(args) = args.command else { bail!("not serve: {line}") };
    Ok(args)
}

fn serve(line: &str, environment: &Environment) -> Result<(EngineOptions, ServeOptions)> {
    serve_args(line)?.resolve(environment)
}

#[test]
fn the_definition_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn no_flags_mean_the_engines_own_defaults() {
    let (engine, server) = serve("", &Environment::default()).unwrap();
    let speculative = Some(Speculative::automatic());
    let defaults = EngineOptions { speculative, ..EngineOptions::default() };
    assert_eq!(format!("{engine:?}"), format!("{defaults:?}"));
    assert_eq!((server.host.as_str(), server.port), ("127.0.0.1", 8000));
    assert_eq!(server.num_http_threads, 2);
    assert!(server.config.api_keys.is_empty() && server.is_loopback());
}

#[test]
fn no_flags_mean_the_front_ends_own_defaults() {
    let (_, server) = serve("", &Environment::default()).unwrap();
    let (config, defaults) = (server.config, ServerConfig::default());
    assert_eq!(format!("{:?}", config.limits), format!("{:?}", defaults.limits));
    assert_eq!(config.shutdown_timeout, defaults.shutdown_timeout);
    assert_eq!(config.engine_hang_timeout, defaults.engine_hang_timeout);
    assert_eq!(config.sse_keep_alive_interval, defaults.sse_keep_alive_interval);
    assert_eq!(config.metrics_without_key, defaults.metrics_without_key);
    assert_eq!(config.console, defaults.console);
    assert!(!serve("--no-console", &Environment::default()).unwrap().1.config.console);
}

#[test]
fn each_engine_flag_reaches_its_field() {
    let line = "m.gguf --device cuda:1 --weights float32 --activations down,v --kv-cache-dtype bf16 \
                --max-model-len 8k --max-num-seqs 64 --max-num-batched-tokens 2K --kv-cache-memory 512MiB \
                --prefix-cache-memory 64MiB --block-size 32 --threads 3 --tensor-parallel-size 2 --rank-timeout 9s --cpu-isa avx-vnni --scheduling-policy priority \
                --no-enable-prefix-caching --no-async-scheduling --enforce-eager --batch-invariant \
                --long-prefill-token-threshold 100 --max-num-queued-reqs 5 --max-logprobs 7 \
                --served-model-name a b";
    let (engine, server) = serve(line, &Environment::default()).unwrap();
    assert_eq!(engine.device, DeviceChoice::Cuda(1));
    assert_eq!((engine.weights, engine.kv_cache_dtype), (Weights::Float32, KvCacheDtype::BF16));
    let wide = [LinearKind::Value, LinearKind::Down];
    assert_eq!(engine.activations, Activations::int16_for(&wide));
    assert_eq!(engine.cpu_isa, Some(SimdLevel::AvxVnni));
    assert_eq!((engine.max_model_len, engine.max_num_seqs), (Some(8000), Some(64)));
    assert_eq!(engine.max_num_batched_tokens, Some(2048));
    assert_eq!(engine.kv_cache_memory, Some(512 << 20));
    assert_eq!(engine.prefix_cache_memory, Some(64 << 20));
    assert_eq!((engine.block_size, engine.threads), (Some(32), Some(3)));
    assert_eq!((engine.tensor_parallel_size, engine.rank_timeout), (2, Duration::from_secs(9)));
    assert_eq!(engine.data_parallel_size, 1);
    assert_eq!(engine.scheduling_policy, SchedulingPolicy::Priority);
    assert_eq!((engine.enable_prefix_caching, engine.async_scheduling), (false, Some(false)));
    assert_eq!((engine.enforce_eager, engine.batch_invariant), (true, true));
    assert_eq!(engine.long_prefill_token_threshold, 100);
    assert_eq!((engine.max_num_queued_reqs, engine.max_logprobs), (5, 7));
    assert_eq!(engine.served_model_name, "a");
    assert_eq!(server.config.served_model_names, ["a", "b"]);
    assert_eq!(server.models, ["m.gguf"]);
}

#[test]
fn guesses_are_made_unless_they_are_turned_off() {
    let speculative = |line: &str| {
        let (engine, _) = serve(line, &Environment::default()).unwrap();
        engine.speculative.map(|own| (own.method.to_string(), own.num_tokens, own.is_default))
    };
    let most = Speculative::automatic().num_tokens;
    assert_eq!(speculative(""), Some(("ngram".into(), most, true)));
    assert_eq!(speculative("--num-speculative-tokens 3"), Some(("ngram".into(), 3, true)));
    assert_eq!(speculative("--speculative ngram"), Some(("ngram".into(), most, false)));
    assert_eq!(speculative("--speculative off"), None);
}

#[test]
fn of_two_opposite_flags_the_last_one_counts() {
    let off = "--enable-prefix-caching --no-enable-prefix-caching";
    let on = "--no-enable-prefix-caching --enable-prefix-caching --async-scheduling";
    let environment = Environment::default();
    assert!(!serve(off, &environment).unwrap().0.enable_prefix_caching);
    let (engine, _) = serve(on, &environment).unwrap();
    assert_eq!((engine.enable_prefix_caching, engine.async_scheduling), (true, Some(true)));
}

#[test]
fn bad_values_name_their_flag() {
    for line in [
        "--port 70000",
        "--http-threads 0",
        "--device gpu",
        "--max-model-len 8kk",
        "--kv-cache-memory 0",
        "--max-num-seqs 0",
        "--threads 0",
        "--block-size -1",
        "--weights int3",
        "--activations qkv,lm_head",
        "--cpu-isa sse",
        "--shutdown-timeout soon",
        "--max-body-bytes x",
    ] {
        let flag = line.split(' ').next().unwrap();
        let error = serve(line, &Environment::default()).err().unwrap().to_string();
        assert!(error.contains(flag), "{line}: {error}");
    }
}

#[test]
fn a_model_has_a_name() {
    let error = serve("--served-model-name=", &Environment::default()).err().unwrap().to_string();
    assert_eq!(error, "--served-model-name is empty");
}

#[test]
fn keys_come_from_flags_or_a_file_or_the_environment() {
    let environment =
        Environment { api_keys: vec!["of-environment".into()], ..Environment::default() };
    let keys = |line: &str| serve_args(line)?.api_keys(&environment);
    assert_eq!(keys("").unwrap(), ["of-environment"]);
    assert_eq!(keys("--api-key a --api-key b").unwrap(), ["a", "b"]);

    let file = std::env::temp_dir().join(format!("quire-keys-{}", std::process::id()));
    std::fs::write(&file, "# staging\nx\n\n y \n").unwrap();
    let path = file.display();
    assert_eq!(keys(&format!("--api-key-file {path} --api-key a")).unwrap(), ["a", "x", "y"]);
    std::fs::write(&file, "# none\n").unwrap();
    let error = keys(&format!("--api-key-file {path}")).unwrap_err().to_string();
    assert!(error.contains("--api-key-file"), "{error}");
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn flags_go_before_the_environment() {
    let environment = Environment {
        models_dir: Some("/env".into()),
        log_level: Some(LogLevel::Error),
        ..Environment::default()
    };
    let common = |line: &str| {
        let args = Args::try_parse_from(line.split_whitespace()).unwrap();
        args.common.resolve(&environment, args.command.is_quiet()).unwrap()
    };
    assert_eq!(common("quire list").models_dir, PathBuf::from("/env"));
    assert_eq!(common("quire list").log_level, LogLevel::Error);
    let flags = common("quire list --models-dir /flag --log-level trace");
    assert_eq!((flags.models_dir, flags.log_level), ("/flag".into(), LogLevel::Trace));
}
