//! Times what the host does in a decode step on a GPU: schedule, launch, take tokens, tell clients. On the stand-in driver,
//! which runs no kernel: the answers of the sampler's last run stand where the host looks for new ones.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Parser;
use quire_benches::report::{Run, Table, print, progress, three_digits, write_json};
use quire_benches::statistics::median;
use quire_benches::streams::next_token;
use quire_engine::config::DeviceChoice;
use quire_engine::{
    Engine, EngineHandle, EngineOptions, Machine, MemoryPlan, ModelFiles, Request, SamplingParams,
};
use quire_server::metrics::Metrics;
use quire_sim::Emulator;
use serde::Serialize;

/// Time the host's work of decode steps, without the device's.
#[derive(Debug, Parser)]
struct Args {
    /// A GGUF file that CUDA has kernels for; a tiny one does
    model: PathBuf,

    /// Sequences that decode at once
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32, 128, 256])]
    batch: Vec<usize>,

    /// Steps that are timed in a round
    #[arg(long, default_value_t = 500)]
    steps: usize,

    /// Rounds of which the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// Launch steps op by op, not as graphs
    #[arg(long)]
    enforce_eager: bool,

    /// Also write the report as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    run: Run,
    model: String,
    num_layers: usize,
    enforce_eager: bool,
    figures: Vec<Figure>,
}

#[derive(Serialize)]
struct Figure {
    batch: usize,
    /// Of processor time of the loop's thread in a step, the driver's off.
    microseconds: f64,
}

/// Steps before the first that is timed: prompts, and the graph's recording.
const WARM_STEPS: usize = 12;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(!args.batch.contains(&0) && args.steps > 0 && args.rounds > 0, "counts are at least 1");
    let emulator = quire_sim::load();
    // A server records how long each token took.
    let metrics = Metrics::install();
    let mut figures = Vec::new();
    let mut num_layers = 0;
    for &batch in &args.batch {
        progress(&format!("{batch} sequences ..."));
        emulator.run_only(c"sample_rows");
        let (handle, plan) = load(&args, batch)?;
        num_layers = plan.spec.num_layers();
        // Every row gets an answer. Emulated, the sampler takes far longer than what is timed.
        step_seconds(&handle, &emulator, batch, 1)?;
        emulator.run_only(c"none");
        let rounds = (0..args.rounds).map(|_| {
            metrics.run_upkeep();
            step_seconds(&handle, &emulator, batch, args.steps)
        });
        let seconds = rounds.collect::<anyhow::Result<Vec<f64>>>()?;
        figures.push(Figure { batch, microseconds: 1e6 * median(&seconds) });
    }
    let model = args.model.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    let enforce_eager = args.enforce_eager;
    let report = Report { run: Run::here(), model, num_layers, enforce_eager, figures };
    print(&markdown(&report));
    write_json(args.json.as_deref(), &report)
}

fn load(args: &Args, batch: usize) -> anyhow::Result<(EngineHandle, MemoryPlan)> {
    let file = ModelFiles::open(&args.model)?;
    let max_model_len = (16 + WARM_STEPS + args.steps).next_multiple_of(16) as u32;
    let options = EngineOptions {
        device: DeviceChoice::Cuda(0),
        enforce_eager: args.enforce_eager,
        enable_prefix_caching: false,
        max_model_len: Some(max_model_len),
        max_num_seqs: Some(batch as u32),
        max_num_batched_tokens: Some(batch.max(256) as u32),
        ..EngineOptions::default()
    };
    let plan = MemoryPlan::new(&file, &options, &Machine::detect())?;
    let engine = Engine::load(&file, &plan, &[], &|_, _| ())?;
    Ok((engine.spawn()?.0, plan))
}

/// Seconds of a step in which `batch` sequences decode.
fn step_seconds(
    handle: &EngineHandle,
    emulator: &Emulator,
    batch: usize,
    steps: usize,
) -> anyhow::Result<f64> {
    let params = SamplingParams {
        ignore_eos: true,
        ..SamplingParams::greedy((WARM_STEPS + steps + 1) as u32)
    };
    // One token each: all sequences begin in one step and run to the same end.
    let requests = (0..batch).map(|_| Request::new(vec![1], params.clone()));
    let mut streams =
        requests.map(|request| handle.generate(request)).collect::<Result<Vec<_>, _>>()?;
    let mut stamps = Vec::new();
    for step in 0..=WARM_STEPS + steps {
        // Of the last sequence alone: nobody is woken for the others.
        next_token(streams.last_mut().context("a batch")?)?;
        if step == WARM_STEPS || step == WARM_STEPS + steps {
            stamps.push(host_nanoseconds(emulator)?);
        }
    }
    for stream in &mut streams {
        while stream.blocking_next().is_some() {}
    }
    Ok((stamps[1] - stamps[0]) / 1e9 / steps as f64)
}

/// Processor time of the loop's thread so far, without that of the streams that it ran.
fn host_nanoseconds(emulator: &Emulator) -> anyhow::Result<f64> {
    let tasks = std::fs::read_dir("/proc/self/task").context("Linux says what threads do")?;
    // Engines that have ended may still be leaving: the newest thread is the one that runs.
    let mut newest = None;
    for task in tasks {
        let path = task?.path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        let id: Option<u64> = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        if name.trim() == "quire-engine" && id > newest {
            newest = id;
        }
    }
    let id = newest.context("an engine runs")?;
    let text = std::fs::read_to_string(format!("/proc/self/task/{id}/schedstat"))?;
    let spent: u64 = text.split(' ').next().context("schedstat begins with the time")?.parse()?;
    Ok(spent as f64 - emulator.device_nanoseconds() as f64)
}

fn markdown(report: &Report) -> String {
    let mut table = Table::new(&["sequences", "µs a step"]);
    for figure in &report.figures {
        table.row([figure.batch.to_string(), three_digits(figure.microseconds)]);
    }
    let how = if report.enforce_eager { "op by op" } else { "as graphs" };
    let (header, layers) = (report.run.header(), report.num_layers);
    format!("{header}\n{}, {layers} layers, launched {how}\n\n{table}", report.model)
}
