//! Times the front-end alone: an engine that only pretends answers from a process of its own, whose processor time and memory
//! are read while clients stream from it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use quire_benches::front_end::{Door, Load, Mock, measure_idle, measure_streams, measure_text};
use quire_benches::report::{Run, Table, print, progress, three_digits, write_json};
use serde::Serialize;

/// Time streams, idle streams, and templates with tokenization, without a model's arithmetic.
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
    #[arg(long, default_value_t = 9000)]
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

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let step = Duration::from_micros(args.step_us);
    if let Some(Role::Mock) = args.role {
        return Mock::serve(&args.model, step);
    }
    let mut doors = Vec::new();
    for door in [Door::Sse, Door::Grpc] {
        progress(&format!("{door:?}"));
        let mock = Mock::spawn(&args.model, args.step_us)?;
        doors.push(measure_streams(&mock, door, args.streams, args.tokens)?);
    }
    progress("idle");
    let idle_kib_each = measure_idle(&Mock::spawn(&args.model, args.step_us)?, args.idle)?;
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
    write_json(args.json.as_deref(), &report)
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
        writeln!(
            out,
            "{} idle streams: {} KiB each\n\ntemplate and tokenization of {} tokens: {} ms",
            self.idle_streams,
            three_digits(self.idle_kib_each),
            self.text_tokens,
            three_digits(self.text_ms)
        )
    }
}
