//! One module a command of `quire`.

use anyhow::Result;

use crate::args::{Command, CommonOptions, Environment};

mod list;
mod model;
mod plan;
mod pull;
mod run;
mod serve;
mod tokenize;

/// Runs `command` to its end.
pub(crate) fn run(
    command: &Command,
    options: &CommonOptions,
    environment: &Environment,
) -> Result<()> {
    match command {
        Command::Pull(args) => pull::run(args, options, environment),
        Command::List => {
            list::run(options);
            Ok(())
        }
        Command::Plan(args) => plan::run(args, options),
        Command::Serve(args) => serve::run(args, options, environment),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Run(args) => run::run(args, options),
    }
}
