//! Messages to standard error, as lines for people or JSON for collectors.

use tracing::Level;

use crate::args::{CommonOptions, LogFormat, LogLevel};

/// Starts the logging of this process; once.
pub(crate) fn start(options: &CommonOptions) {
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
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        // It would say on standard error that standard error cannot be written, and panic of that.
        .log_internal_errors(false)
        .with_target(level >= Level::DEBUG);
    match options.log_format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}
