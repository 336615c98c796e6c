//! A streaming load client for any server with the OpenAI API.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use quire_benches::http::BaseUrl;
use quire_benches::load::{self, Level};
use quire_benches::process::peak_memory;
use quire_benches::prompts::{OVERHEAD_TOKENS, prompt};
use quire_benches::report::{Run, Table, print, progress, three_digits, write_json};
use quire_benches::stream::{Target, chat};
use serde::Serialize;

/// Load a server as a number of users would: each sends, reads the stream, and sends again.
#[derive(Debug, Parser)]
struct Args {
    /// Where the server is, with or without /v1
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    base_url: String,

    /// The model's name in requests
    #[arg(long, default_value = "default")]
    model: String,

    /// Users at once, one level after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16, 32, 64])]
    concurrency: Vec<usize>,

    /// Requests of a level [default: three a user, at least 8]
    #[arg(long)]
    requests: Option<u64>,

    /// Tokens of a prompt, about
    #[arg(long, default_value_t = 128)]
    prompt_tokens: usize,

    /// Words of a prompt, exactly, in place of --prompt-tokens
    #[arg(long)]
    prompt_words: Option<usize>,

    /// Tokens of an answer
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,

    /// The server's process, to report the memory of it and its children
    #[arg(long)]
    pid: Option<u32>,

    /// Seconds of silence after which a request has failed
    #[arg(long, default_value_t = 120)]
    timeout: u64,

    /// Also write the report as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    run: Run,
    levels: Vec<Level>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(!args.concurrency.contains(&0), "--concurrency must be at least 1");
    let target = Target {
        url: BaseUrl::parse(&args.base_url)?,
        model: args.model.clone(),
        max_tokens: args.max_tokens,
        timeout: Duration::from_secs(args.timeout),
    };
    let default_words = args.prompt_tokens.saturating_sub(OVERHEAD_TOKENS).max(1);
    let num_words = args.prompt_words.unwrap_or(default_words);
    chat(&target, &prompt(0, num_words)).context("the first request, which is not counted")?;
    let mut first = 1;
    let mut levels = Vec::new();
    for &concurrency in &args.concurrency {
        progress(&format!("{concurrency} users ..."));
        let end = first + args.requests.unwrap_or(8.max(3 * concurrency as u64));
        let mut level = load::run(&target, concurrency, first..end, num_words);
        level.peak_memory_bytes = args.pid.and_then(peak_memory);
        levels.push(level);
        first = end;
    }
    let report = Report { run: Run::here(), levels };
    print(&markdown(&report));
    write_json(args.json.as_deref(), &report)
}

fn markdown(report: &Report) -> String {
    let columns = [
        "users",
        "requests",
        "failed",
        "out tok/s",
        "prompt tok",
        "TTFT mean",
        "p50",
        "p99",
        "ITL mean",
        "p50",
        "p99",
        "TPOT mean",
        "E2E mean",
        "p99",
        "peak MiB",
    ];
    let mut table = Table::new(&columns);
    let mut notes = String::new();
    for level in &report.levels {
        let Level { ttft, itl, tpot, e2e, .. } = level;
        let times = [ttft.mean, ttft.p50, ttft.p99, itl.mean, itl.p50, itl.p99, tpot.mean];
        let times = times.into_iter().chain([e2e.mean, e2e.p99]).map(three_digits);
        let memory = level.peak_memory_bytes;
        let counts = [
            level.concurrency.to_string(),
            level.requests.to_string(),
            level.failures.to_string(),
            three_digits(level.output_tokens_per_second),
            three_digits(level.prompt_tokens),
        ];
        let memory = memory.map_or("-".to_owned(), |bytes| (bytes >> 20).to_string());
        table.row(counts.into_iter().chain(times).chain([memory]));
        if let Some(failure) = &level.first_failure {
            let _ = writeln!(notes, "\n{} users, a failure: {failure}", level.concurrency);
        }
    }
    format!("{}{table}{notes}\nTimes in ms.\n", report.run.header())
}
