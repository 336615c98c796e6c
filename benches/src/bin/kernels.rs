//! Times every op, at its test shapes and at those of real models, as shares of the machine's limits.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use quire_benches::attention_shapes;
use quire_benches::linear_shapes::{self, arithmetic_of};
use quire_benches::machine::MachineLimits;
use quire_benches::report::{Run, Table, percent, print, progress, three_digits, write_json};
use quire_benches::timing::{Budget, Measurement, Timed, measurement, time};
use quire_engine::Machine;
use quire_kernels::cases::Case;
use quire_kernels::cpu::limits::Arithmetic;
use quire_kernels::{Device, WeightFormat, cases};
use serde::Serialize;

/// Time every op as a share of the machine's limits.
#[derive(Debug, Parser)]
struct Args {
    /// Only cases whose op and name contain this, as "linear SmolLM2" or "Q4_K"; several: any of them
    filters: Vec<String>,

    /// Also the odd shapes that the tests use; those of `linear` load their weights in each call
    #[arg(long)]
    test_shapes: bool,

    /// Compute threads [default: one a physical core]
    #[arg(long)]
    threads: Option<usize>,

    /// Rounds of which the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// Least milliseconds of one case in one round
    #[arg(long, default_value_t = 10)]
    round_ms: u64,

    /// Also write the report as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    run: Run,
    limits: MachineLimits,
    cases: Vec<Measurement>,
}

/// Makes cases whose rounds are interleaved, and what they need in memory.
type Group = Box<dyn FnOnce() -> Vec<Timed>>;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let threads = args.threads.unwrap_or_else(|| Machine::detect().num_cores);
    let device = Rc::new(Device::cpu(threads));
    progress("measuring the machine ...");
    let before = MachineLimits::measure(threads);
    let budget = Budget { rounds: args.rounds, round: Duration::from_millis(args.round_ms) };
    let mut timed = Vec::new();
    for make in groups(&device, &args) {
        let mut cases = make();
        cases.retain(|case| is_wanted(&case.op, &case.name, &args.filters));
        if let Some(first) = cases.first() {
            progress(&format!("{} {} ...", first.op, first.name));
            let seconds = time(&mut cases, budget);
            timed.extend(cases.into_iter().zip(seconds).map(|(case, s)| (without_run(case), s)));
        }
    }
    let limits = before.or_better(&MachineLimits::measure(threads));
    let cases: Vec<Measurement> =
        timed.iter().map(|(case, seconds)| measurement(case, *seconds, &limits)).collect();
    let report = Report { run: Run::here(), limits, cases };
    print(&markdown(&report));
    write_json(args.json.as_deref(), &report)
}

/// Whether every word of some filter occurs in the case's op or name.
fn is_wanted(op: &str, name: &str, filters: &[String]) -> bool {
    let has = |word: &str| op.contains(word) || name.contains(word);
    filters.is_empty() || filters.iter().any(|filter| filter.split_whitespace().all(has))
}

/// Drops what a case holds in memory.
fn without_run(case: Timed) -> Timed {
    Timed { run: Box::new(|| ()), ..case }
}

fn groups(device: &Rc<Device>, args: &Args) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for linear in linear_shapes::groups() {
        let names = linear.case_names();
        if names.iter().any(|name| is_wanted("linear", name, &args.filters)) {
            let device = Rc::clone(device);
            groups.push(Box::new(move || linear.cases(&device)));
        }
    }
    let attention_device = Rc::clone(device);
    groups.push(Box::new(move || attention_shapes::cases(&attention_device)));
    if args.test_shapes {
        let device = Rc::clone(device);
        groups.push(Box::new(move || {
            cases::all().into_iter().map(|case| timed(case, Rc::clone(&device))).collect()
        }));
    }
    groups
}

fn timed(mut case: Case, device: Rc<Device>) -> Timed {
    let mut output = vec![0.0; case.output_len];
    Timed {
        op: case.op.to_owned(),
        name: case.name.clone(),
        work: case.work,
        arithmetic: arithmetic_of_case(&case),
        run: Box::new(move || (case.run)(&device, &mut output)),
    }
}

/// A `linear` case names its format; everything else computes in float32.
fn arithmetic_of_case(case: &Case) -> Arithmetic {
    let named = |format: &&WeightFormat| case.name.contains(format.name());
    match WeightFormat::ALL.iter().find(named) {
        Some(&format) if case.op == "linear" => arithmetic_of(format),
        _ => Arithmetic::Float32,
    }
}

fn markdown(report: &Report) -> String {
    let columns = ["op", "case", "µs", "GB/s", "Gop/s", "bound", "share"];
    let mut table = Table::new(&columns).with_text_columns(2);
    for case in &report.cases {
        let Measurement { op, name, microseconds, gb_s, gop_s, bound, share } = case;
        table.row([
            op.clone(),
            name.clone(),
            three_digits(*microseconds),
            three_digits(*gb_s),
            three_digits(*gop_s),
            (*bound).to_owned(),
            percent(*share),
        ]);
    }
    format!("{}{}\n{table}", report.run.header(), report.limits.table())
}
