//! Messages to standard error, as lines for people or JSON for collectors.

use anyhow::{Context, Result};
use quire_server::log_lines::{self, LogLines};
use tracing::Level;

use crate::args::{CommonOptions, LogFormat, LogLevel};

/// Starts the logging of this process; once.
pub(crate) fn start(options: &CommonOptions) -> Result<()> {
    log_lines::start().context("no thread for the log")?;
    let level = match options.log_level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| LogLines)
        .with_ansi(is_terminal)
        .with_target(level >= Level::DEBUG);
    match options.log_format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
