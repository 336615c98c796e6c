//! Times the front-end alone: an engine that only pretends answers from a process of its own, whose processor time and memory
//! are read while clients stream from it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use clap::{Parser, Subcommand};
use quire_benches::front_end::{Door, Load, Mock, measure_idle, measure_streams, measure_text};
use quire_benches::process::open_files_limit;
use quire_benches::report::{Run, Table, print, progress, three_digits, write_json};
use serde::Serialize;

/// Tokens a second of one processor, at least.
const TOKENS_BAR: f64 = 30_000.0;
/// KiB of a stream that waits, at most: 50 kB.
const IDLE_BAR: f64 = 50_000.0 / 1024.0;
/// Milliseconds for template and tokenization of a thousand tokens, at most.
const TEXT_BAR: f64 = 1.0;
/// The engine's step while idle streams are opened one after the other, each with its first token.
const IDLE_STEP_US: u64 = 500;
/// Files that a process has open besides connections, about.
const OTHER_FILES: usize = 64;

/// Time streams, idle streams, and templates with tokenization, without a model's arithmetic.
///
/// Ends with 1 where a bar is missed.
#[derive(Debug, Parser)]
struct Args {
    /// A GGUF file whose tokenizer and template are used
    model: PathBuf,

    /// Streams at once
    #[arg(long, default_value_t = 256)]
    streams: usize,

    /// Tokens of each stream
    #[arg(long, default_value_t = 500)]
    tokens: usize,

    /// Time between two tokens of a stream, in microseconds
    #[arg(long, default_value_t = 8000)]
    step_us: u64,

    /// Streams that wait, for their memory
    #[arg(long, default_value_t = 10_000)]
    idle: usize,

    /// Also write the report as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,

    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Serve, for the other process
    Mock,
}

#[derive(Serialize)]
struct Report {
    run: Run,
    streams: usize,
    step_us: u64,
    doors: Vec<Load>,
    idle_streams: usize,
    idle_kib_each: f64,
    text_tokens: usize,
    text_ms: f64,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let step = Duration::from_micros(args.step_us);
    if let Some(Role::Mock) = args.role {
        Mock::serve(&args.model, step)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (wanted, most) = (args.idle + OTHER_FILES, open_files_limit().unwrap_or(u64::MAX));
    ensure!(
        most >= wanted as u64,
        "--idle {}: raise the limit of open files (ulimit -n {wanted})",
        args.idle
    );
    let mut doors = Vec::new();
    for door in [Door::Sse, Door::Grpc] {
        progress(&format!("{door:?}"));
        let mock = Mock::spawn(&args.model, args.step_us)?;
        doors.push(measure_streams(&mock, door, args.streams, args.tokens)?);
    }
    progress("idle");
    let idle_kib_each = measure_idle(&Mock::spawn(&args.model, IDLE_STEP_US)?, args.idle)?;
    progress("text");
    let (text_tokens, text_ms) = measure_text(&args.model)?;
    let report = Report {
        run: Run::here(),
        streams: args.streams,
        step_us: args.step_us,
        doors,
        idle_streams: args.idle,
        idle_kib_each,
        text_tokens,
        text_ms,
    };
    print(&report.to_string());
    write_json(args.json.as_deref(), &report)?;
    let is_met = report.bars().iter().all(|bar| bar.is_met);
    Ok(if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is asked of the front-end.
struct Bar {
    name: String,
    wanted: String,
    found: f64,
    is_met: bool,
}

impl Report {
    fn bars(&self) -> Vec<Bar> {
        let doors = self.doors.iter().map(|load| {
            let found = load.tokens_per_second / load.processors;
            Bar {
                name: format!(
                    "{:?} tokens/s of one processor, {} streams",
                    load.door, self.streams
                ),
                wanted: format!("at least {TOKENS_BAR:.0}"),
                found,
                is_met: found >= TOKENS_BAR,
            }
        });
        let idle = Bar {
            name: format!("KiB of an idle stream, {} streams", self.idle_streams),
            wanted: format!("at most {IDLE_BAR:.1}"),
            found: self.idle_kib_each,
            is_met: self.idle_kib_each <= IDLE_BAR,
        };
        let text = Bar {
            name: format!("ms for template and tokenization, {} tokens", self.text_tokens),
            wanted: format!("below {TEXT_BAR}"),
            found: self.text_ms,
            is_met: self.text_ms < TEXT_BAR,
        };
        doors.chain([idle, text]).collect()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(out, "{}\n", self.run.header())?;
        let offered = self.streams as f64 * 1e6 / self.step_us as f64;
        writeln!(
            out,
            "{} streams, a token each every {} µs, which are {} tokens a second\n",
            self.streams,
            self.step_us,
            three_digits(offered)
        )?;
        let mut table =
            Table::new(&["door", "tokens/s", "processors", "tokens/s of one processor"]);
        for load in &self.doors {
            table.row([
                format!("{:?}", load.door),
                three_digits(load.tokens_per_second),
                three_digits(load.processors),
                three_digits(load.tokens_per_second / load.processors),
            ]);
        }
        writeln!(out, "{table}")?;
        let mut table = Table::new(&["bar", "wanted", "found", ""]).with_text_columns(2);
        for Bar { name, wanted, found, is_met } in self.bars() {
            let verdict = if is_met { "met" } else { "MISSED" };
            table.row([name, wanted, three_digits(found), verdict.to_owned()]);
        }
        write!(out, "{table}")
    }
}
