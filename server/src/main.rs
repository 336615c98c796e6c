//! The binary `quire`: reads the command line, starts logging, runs one command.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a terminal is where this talks")]

mod args;
mod commands;
mod exit;
mod logging;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use quire_server::log_lines;

use crate::args::{Args, Environment};

fn main() -> ExitCode {
    let outcome = run(&Args::parse());
    log_lines::flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `eprintln!` panics where standard error cannot be written.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            exit::code_of(&error)
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let environment = Environment::read()?;
    let options = args.common.resolve(&environment, args.command.is_quiet())?;
    logging::start(&options)?;
    commands::run(&args.command, &options, &environment)
}
