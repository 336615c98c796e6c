//! Times the engine in this process: prefill of one prompt, decode of batches, as shares of the machine's limits.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Parser;
use quire_benches::machine::MachineLimits;
use quire_benches::model_work::ModelWork;
use quire_benches::process::own_peak_memory;
use quire_benches::report::{Run, Table, percent, print, progress, three_digits, write_json};
use quire_benches::statistics::median;
use quire_benches::streams::{expect_length, next_token};
use quire_engine::config::{Activations, SimdLevel};
use quire_engine::{
    Engine, EngineHandle, EngineOptions, Machine, MemoryPlan, ModelFiles, Request, SamplingParams,
};
use quire_kernels::cases::{Work, random_f32};
use serde::Serialize;

/// Sequences join a batch some steps apart; a step more than that, and all of them run in every step that is timed.
const SPARE_STEPS: usize = 8;

/// Time prefill and decode of a GGUF file, without a server.
#[derive(Debug, Parser)]
struct Args {
    /// The GGUF file
    model: PathBuf,

    /// Sequences that decode at once
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 8, 16, 32, 64])]
    batch: Vec<usize>,

    /// Tokens of the prompt whose prefill is timed
    #[arg(long, default_value_t = 512)]
    prefill_tokens: usize,

    /// Tokens of each prompt before decode is timed
    #[arg(long, default_value_t = 128)]
    prompt_tokens: usize,

    /// Tokens a sequence that are timed
    #[arg(long, default_value_t = 128)]
    output_tokens: usize,

    /// Rounds of which the median counts; all figures of a round are taken in turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// Compute threads [default: one a physical core]
    #[arg(long)]
    threads: Option<usize>,

    /// Ranks that share the model and the threads
    #[arg(long, default_value_t = 1)]
    tensor_parallel_size: usize,

    /// Instruction set of the kernels: avx512, avx-vnni, avx2 or portable [default: the widest of this machine]
    #[arg(long, value_parser = cpu_isa)]
    cpu_isa: Option<SimdLevel>,

    /// As `quire serve` takes it: int8, mixed, int16, or the layers that get int16
    #[arg(long, default_value = "int8")]
    activations: Activations,

    /// Tokens of one step [default: the engine's]
    #[arg(long)]
    max_num_batched_tokens: Option<u32>,

    /// Also write the report as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    run: Run,
    limits: MachineLimits,
    model: String,
    /// The instruction set, and how activations are rounded.
    cpu_isa: &'static str,
    activations: String,
    /// From opening the file until requests are taken.
    load_seconds: f64,
    peak_memory_bytes: u64,
    figures: Vec<Figure>,
}

#[derive(Serialize)]
struct Figure {
    /// "prefill" or "decode".
    phase: &'static str,
    batch: usize,
    tokens_per_second: f64,
    /// Of a step, or of the whole prompt.
    milliseconds: f64,
    /// Bytes that must be read, as a share of the bandwidth.
    memory_share: f64,
    /// Operations, as a share of the peak of the weights' arithmetic.
    arithmetic_share: f64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.batch.contains(&0) || args.output_tokens == 0 || args.rounds == 0 {
        bail!("--batch, --output-tokens and --rounds must be at least 1");
    }
    progress("loading ...");
    let start = Instant::now();
    let (handle, work, plan) = load(&args)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let vocab_size = plan.spec.vocab_size();
    let budget = plan.config.max_num_batched_tokens as usize;
    let mut prefill_seconds = Vec::new();
    let mut step_seconds = vec![Vec::new(); args.batch.len()];
    prefill(&handle, &prompt(1, args.prefill_tokens, vocab_size))?; // touches all memory once
    for round in 0..args.rounds {
        progress(&format!("round {} of {} ...", round + 1, args.rounds));
        prefill_seconds.push(prefill(&handle, &prompt(2, args.prefill_tokens, vocab_size))?);
        for (&batch, seconds) in args.batch.iter().zip(&mut step_seconds) {
            let prompts: Vec<_> =
                (0..batch).map(|i| prompt(10 + i, args.prompt_tokens, vocab_size)).collect();
            seconds.push(decode_step(&handle, &prompts, args.output_tokens, budget)?);
        }
    }
    let peak_memory_bytes = own_peak_memory();
    // Its worker threads must not disturb the measurement of the machine.
    drop(handle);
    progress("measuring the machine ...");
    let limits = MachineLimits::measure(plan.config.threads * plan.config.tensor_parallel_size);
    let figure = Figures { limits: &limits, work };
    let mut figures = vec![figure.prefill(args.prefill_tokens, median(&prefill_seconds))];
    let context = args.prompt_tokens + args.output_tokens / 2;
    for (&batch, seconds) in args.batch.iter().zip(&step_seconds) {
        figures.push(figure.decode(batch, context, median(seconds)));
    }
    let model = args.model.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    let report = Report {
        run: Run::here(),
        limits,
        model,
        cpu_isa: plan.config.cpu_isa.name(),
        activations: plan.config.activations.to_string(),
        load_seconds,
        peak_memory_bytes,
        figures,
    };
    print(&markdown(&report));
    write_json(args.json.as_deref(), &report)
}

fn cpu_isa(name: &str) -> Result<SimdLevel, String> {
    SimdLevel::named(name).ok_or_else(|| "write avx512, avx-vnni, avx2 or portable".to_owned())
}

/// Starts an engine whose KV cache holds just the largest batch.
fn load(args: &Args) -> anyhow::Result<(EngineHandle, ModelWork, MemoryPlan)> {
    let file = ModelFiles::open(&args.model)?;
    let machine = Machine::detect();
    let mut options = EngineOptions {
        threads: args.threads,
        tensor_parallel_size: args.tensor_parallel_size,
        cpu_isa: args.cpu_isa,
        activations: args.activations,
        enable_prefix_caching: false,
        max_num_batched_tokens: args.max_num_batched_tokens,
        ..EngineOptions::on_cpu()
    };
    let plan = MemoryPlan::new(&file, &options, &machine)?;
    let largest = args.batch.iter().copied().max().context("--batch is empty")?;
    let budget = plan.config.max_num_batched_tokens as usize;
    let tokens_per_seq = num_outputs(args.output_tokens, largest, args.prompt_tokens, budget)
        + args.prompt_tokens
        + plan.config.block_size as usize;
    let tokens = (largest * tokens_per_seq).max(args.prefill_tokens + tokens_per_seq);
    options.kv_cache_memory = Some(plan.kv_bytes_per_token * tokens as u64);
    let plan = MemoryPlan::new(&file, &options, &machine)?;
    let work = ModelWork::new(&file, &plan);
    let engine = Engine::load(&file, &plan, &[], &|_, _| ())?;
    Ok((engine.spawn()?.0, work, plan))
}

/// Repeatable token ids.
fn prompt(seed: usize, len: usize, vocab_size: usize) -> Vec<u32> {
    let random = random_f32(seed as u64, len).into_iter();
    let id = |x: f32| (f32::midpoint(x, 1.0) * vocab_size as f32) as u32;
    random.map(|x| id(x).min(vocab_size as u32 - 1)).collect()
}

fn params(max_tokens: usize) -> SamplingParams {
    SamplingParams { ignore_eos: true, ..SamplingParams::greedy(max_tokens as u32) }
}

/// Seconds from the request to its first token.
fn prefill(handle: &EngineHandle, prompt: &[u32]) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut stream = handle.generate(Request::new(prompt.to_vec(), params(1)))?;
    next_token(&mut stream)?;
    let seconds = start.elapsed().as_secs_f64();
    expect_length(&mut stream)?;
    Ok(seconds)
}

/// Tokens to ask for, so that `timed` steps run between the last sequence's first token and the first one's end.
fn num_outputs(timed: usize, batch: usize, prompt_tokens: usize, budget: usize) -> usize {
    1 + timed + (batch * prompt_tokens).div_ceil(budget) + SPARE_STEPS
}

/// Seconds a step, over `timed` steps in which all sequences run.
fn decode_step(
    handle: &EngineHandle,
    prompts: &[Vec<u32>],
    timed: usize,
    budget: usize,
) -> anyhow::Result<f64> {
    let num_outputs = num_outputs(timed, prompts.len(), prompts[0].len(), budget);
    let requests = prompts.iter().map(|prompt| Request::new(prompt.clone(), params(num_outputs)));
    let mut streams =
        requests.map(|request| handle.generate(request)).collect::<Result<Vec<_>, _>>()?;
    // A stamp when every sequence has that many tokens: a step apart once all of them run.
    let mut stamps = Vec::with_capacity(num_outputs);
    for _ in 0..num_outputs {
        streams.iter_mut().try_for_each(next_token)?;
        stamps.push(Instant::now());
    }
    streams.iter_mut().try_for_each(expect_length)?;
    Ok((stamps[timed] - stamps[0]).as_secs_f64() / timed as f64)
}

struct Figures<'a> {
    limits: &'a MachineLimits,
    work: ModelWork,
}

impl Figures<'_> {
    fn prefill(&self, tokens: usize, seconds: f64) -> Figure {
        self.figure("prefill", 1, tokens, self.work.prefill(tokens as u64), seconds)
    }

    fn decode(&self, batch: usize, context: usize, seconds: f64) -> Figure {
        let work = self.work.decode_step(batch as u64, context as u64);
        self.figure("decode", batch, batch, work, seconds)
    }

    fn figure(
        &self,
        phase: &'static str,
        batch: usize,
        tokens: usize,
        work: Work,
        seconds: f64,
    ) -> Figure {
        let peak = self.limits.peak_gop_s(self.work.arithmetic);
        Figure {
            phase,
            batch,
            tokens_per_second: tokens as f64 / seconds,
            milliseconds: 1e3 * seconds,
            memory_share: work.bytes as f64 / 1e9 / self.limits.read_gb_s / seconds,
            arithmetic_share: work.operations as f64 / 1e9 / peak / seconds,
        }
    }
}

fn markdown(report: &Report) -> String {
    let columns =
        ["phase", "batch", "tok/s", "ms a step", "share of bandwidth", "share of arithmetic"];
    let mut table = Table::new(&columns);
    for figure in &report.figures {
        table.row([
            figure.phase.to_owned(),
            figure.batch.to_string(),
            three_digits(figure.tokens_per_second),
            three_digits(figure.milliseconds),
            percent(figure.memory_share),
            percent(figure.arithmetic_share),
        ]);
    }
    format!(
        "{}{}\n{}, {}, {} activations: loaded in {:.2} s, peak memory {:.0} MiB\n\n{table}",
        report.run.header(),
        report.limits.table(),
        report.model,
        report.cpu_isa,
        report.activations,
        report.load_seconds,
        report.peak_memory_bytes as f64 / (1 << 20) as f64,
    )
}
