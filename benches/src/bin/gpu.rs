//! What a GPU does with this build: instructions, parity of all kernels, times beside their floors, whole steps. See README.md.

use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use quire_benches::gpu::floors::Floors;
use quire_benches::gpu::shapes::Shapes;
use quire_benches::gpu::timing::Budget;
use quire_benches::gpu::{Output, cuda_of, kernels, parity, probes, served, steps};
use quire_benches::report::progress;
use quire_kernels::Device;

/// Check and time this build on a GPU; pages and JSON go to a folder.
#[derive(Debug, Parser)]
struct Args {
    /// What to run, in this order
    #[arg(required = true)]
    parts: Vec<Part>,

    /// Where the pages go
    #[arg(long, default_value = "results")]
    output: PathBuf,

    /// Which GPU
    #[arg(long, default_value_t = 0)]
    device: usize,

    /// Tiny shapes and no patience: to see that everything runs
    #[arg(long)]
    tiny: bool,

    /// parity: only cases whose output has at most this many numbers
    #[arg(long, default_value_t = usize::MAX)]
    largest_output: usize,

    /// parity: only these ops; kernels: only groups with these words in their names
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,

    /// steps: only these models
    #[arg(long, value_delimiter = ',')]
    models: Vec<String>,

    /// serve: the server [default: quire beside this program]
    #[arg(long)]
    quire: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Single instructions beside the manual
    Instructions,
    /// Every case of every op beside its reference
    Parity,
    /// Each kernel beside its floor
    Kernels,
    /// The server with dummy weights, until its first token
    Serve,
    /// Prefill and decode of whole models with dummy weights
    Steps,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (shapes, budget) = match args.tiny {
        true => (Shapes::tiny(), Budget::TINY),
        false => (Shapes::full(), Budget::FULL),
    };
    let mut failures = Vec::new();
    for part in &args.parts {
        progress(&format!("{part:?} ..."));
        if let Err(error) = run(*part, &args, &shapes, budget) {
            progress(&format!("{part:?}: {error:#}"));
            failures.push(format!("{part:?}"));
        }
    }
    anyhow::ensure!(failures.is_empty(), "failed: {}", failures.join(", "));
    Ok(())
}

fn run(part: Part, args: &Args, shapes: &Shapes, budget: Budget) -> anyhow::Result<()> {
    let device = Rc::new(Device::cuda(args.device)?);
    let output = Output::new(args.output.clone(), cuda_of(&device).name())?;
    match part {
        Part::Instructions => probes::run(cuda_of(&device), &output),
        Part::Parity => parity::run(&device, &output, args.largest_output, &args.only),
        Part::Kernels => {
            let floors = Floors::measure(&device, shapes, budget)?;
            kernels::run(&device, &output, (shapes, &floors, budget), &args.only)
        }
        Part::Serve => {
            drop(device);
            let beside = || Some(std::env::current_exe().ok()?.with_file_name("quire"));
            let quire = args.quire.clone().or_else(beside).context("--quire")?;
            let models = if args.tiny { steps::Plan::tiny() } else { steps::Plan::full() }.models;
            served::run(&output, &quire, &models, args.device)
        }
        Part::Steps => {
            let floors = Floors::measure(&device, shapes, budget)?;
            drop(device);
            let mut plan = if args.tiny { steps::Plan::tiny() } else { steps::Plan::full() };
            let is_wanted = |name: &str| args.models.iter().any(|wanted| wanted == name);
            plan.models.retain(|(name, _)| args.models.is_empty() || is_wanted(name));
            steps::run(&output, &floors, &plan, args.device)
        }
    }
}
