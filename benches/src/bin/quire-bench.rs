//! The load harness: users, rates, searches and comparisons against any server with the API of OpenAI or Ollama.

use std::process::ExitCode;

use clap::Parser;
use quire_benches::harness::args::Args;
use quire_benches::harness::outcome::INVALID;
use quire_benches::harness::{console, page, session};
use quire_benches::report::{print, write_file, write_json};

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(processors.min(4)).max(1);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let outcome = runtime.block_on(session::execute(&args))?;
    print(&console::text(&outcome));
    // A full disk for one of them is no reason to lose the other.
    let json = write_json(args.json.as_deref(), &outcome);
    let html = args.html.as_deref().map_or(Ok(()), |path| write_file(path, &page::page(&outcome)));
    json.and(html)?;
    let code = outcome.exit_code();
    Ok(ExitCode::from(if code == INVALID && args.allow_late { 0 } else { code }))
}
