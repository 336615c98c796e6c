//! A server without a model that keeps a pace or misbehaves, to try quire-bench on.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use quire_benches::harness::mock::{Fault, MockOptions, serve};
use quire_benches::report::progress;
use tokio::net::TcpListener;

/// Answer OpenAI's and Ollama's chats with words of no meaning, at a set pace.
#[derive(Debug, Parser)]
struct Args {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8900")]
    listen: SocketAddr,

    /// Milliseconds to the first chunk
    #[arg(long, default_value_t = 50)]
    first: u64,

    /// Milliseconds between chunks
    #[arg(long, default_value_t = 20)]
    gap: u64,

    /// Requests answered at once; others wait [default: all]
    #[arg(long)]
    slots: Option<usize>,

    /// Do nothing for so many seconds ...
    #[arg(long, default_value_t = 1.0)]
    pause: f64,

    /// ... once in so many seconds [default: never]
    #[arg(long)]
    pause_every: Option<f64>,

    /// How requests go wrong
    #[arg(long)]
    fault: Option<Fault>,

    /// Every so manieth request goes wrong
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    fault_every: u64,

    /// End after so many requests
    #[arg(long)]
    dies_after: Option<u64>,

    /// What each chunk says
    #[arg(long, default_value = " word")]
    text: String,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let seconds = |name: &str, value: f64| {
        Duration::try_from_secs_f64(value).with_context(|| format!("{name} {value}: want seconds"))
    };
    let pause = match args.pause_every {
        Some(period) => Some((seconds("--pause", args.pause)?, seconds("--pause-every", period)?)),
        None => None,
    };
    let options = MockOptions {
        first: Duration::from_millis(args.first),
        gap: Duration::from_millis(args.gap),
        slots: args.slots.unwrap_or(usize::MAX >> 3),
        pause,
        fault: args.fault.map(|fault| (fault, args.fault_every)),
        dies_after: args.dies_after,
        text: args.text,
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        // A burst of thousands of connections must find room: the standard backlog is short.
        let socket = tokio::net::TcpSocket::new_v4().context("a socket")?;
        socket.set_reuseaddr(true)?;
        socket.bind(args.listen).with_context(|| format!("--listen {}", args.listen))?;
        let listener: TcpListener = socket.listen(16_384)?;
        progress(&format!("listening on {}", listener.local_addr()?));
        serve(listener, options).await;
        anyhow::Ok(())
    })
}
