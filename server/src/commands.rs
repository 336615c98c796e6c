//! One module a command of `quire`.

use anyhow::Result;

use crate::args::{Command, CommonOptions, Environment};

mod doctor;
mod list;
mod model;
mod plan;
mod ps;
mod pull;
mod run;
mod serve;
mod several;
mod store;
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
        Command::Show(args) => store::show(args, options),
        Command::Ps(args) => ps::run(args, environment),
        Command::Rm(args) => store::remove(args, options),
        Command::Cp(args) => store::copy(args, options),
        Command::Create(args) => store::create(args, options),
        Command::Doctor(args) => doctor::run(args, options),
        Command::Plan(args) => plan::run(args, options),
        Command::Serve(args) => serve::run(args, options, environment),
        Command::Tokenize(args) => tokenize::run(args, options),
        Command::Run(args) => run::run(args, options),
    }
}
