//! The command line: every flag, and what it comes to. The doc comment of a flag is its help text.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

mod engine;
mod environment;
mod limits;
mod serve;
mod template;
pub(crate) mod units;

pub(crate) use engine::{EngineArgs, LoadFormat};
pub(crate) use environment::Environment;
pub(crate) use serve::{ServeArgs, ServeOptions};
pub(crate) use template::TemplateArgs;

/// Quire serves language models: many requests at once, one process, one binary.
#[derive(Debug, Parser)]
#[command(name = "quire", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,

    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve models over HTTP, with the OpenAI API.
    Serve(Box<ServeArgs>),
    /// Chat with a model in the terminal. Ctrl-C stops an answer; ctrl-D or /bye ends.
    Run(RunArgs),
    /// Download a model from a Hugging Face style hub, or from a registry in the manner of Ollama's.
    ///
    /// A broken download is resumed, the file's sha256 is verified, and only a whole file gets its name.
    /// HF_ENDPOINT names another hub, HF_TOKEN opens private and gated models.
    Pull(PullArgs),
    /// List the models in the models folder, and those of Ollama's store.
    List,
    /// Show what is known of a model, without loading it.
    Show(ShowArgs),
    /// List the models that a running server has in memory.
    Ps(PsArgs),
    /// Remove models of the store; files that other names share stay.
    Rm(RmArgs),
    /// Give a model of the store another name.
    Cp(CpArgs),
    /// Make a model with settings of its own from a Modelfile.
    Create(CreateArgs),
    /// Print the memory a model needs, before loading anything.
    Plan(PlanArgs),
    /// Look for what could fail without a word: disks, model files, limits, drivers, ports, the clock. Fails if something is wrong.
    Doctor(Box<DoctorArgs>),
    /// Read text from standard input and print its token ids on one line.
    ///
    /// The names of special tokens are ordinary text, and no token is added in front.
    Tokenize(TokenizeArgs),
}

/// Flags of every command.
#[derive(Debug, ClapArgs)]
pub(crate) struct CommonArgs {
    /// Where models lie [default: ./models if it exists, else ~/.cache/quire; env: QUIRE_MODELS_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    models_dir: Option<PathBuf>,

    /// The least important messages to print on standard error [env: QUIRE_LOG_LEVEL]
    #[arg(long, global = true, value_enum)]
    log_level: Option<LogLevel>,

    /// How to print them [env: QUIRE_LOG_FORMAT]
    #[arg(long, global = true, value_enum)]
    log_format: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line a message, for people.
    Text,
    /// A JSON object a message, for collectors.
    Json,
}

#[derive(Debug, ClapArgs)]
#[command(allow_negative_numbers = true)]
pub(crate) struct RunArgs {
    /// A GGUF file, a directory with safetensors, or a name in the models folder [default: the default model]
    pub(crate) model: Option<String>,

    /// Instructions to the model, ahead of the conversation
    #[arg(long)]
    pub(crate) system: Option<String>,

    /// How freely to choose words: 0 always takes the likeliest
    #[arg(long, default_value_t = 0.7)]
    pub(crate) temperature: f32,

    /// Choose among the likeliest tokens that make up this share of the probability
    #[arg(long, default_value_t = 0.95)]
    pub(crate) top_p: f32,

    /// End an answer after this many tokens [default: when the context is full]
    #[arg(long, value_parser = units::tokens, value_name = "TOKENS")]
    pub(crate) max_tokens: Option<u32>,

    /// Make the answers repeatable
    #[arg(long)]
    pub(crate) seed: Option<u64>,

    #[command(flatten)]
    pub(crate) template: TemplateArgs,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PullArgs {
    /// ORG/REPO, ORG/REPO:QUANT (as :Q4_K_M) or ORG/REPO:FILE.gguf of a hub; MODEL:TAG or HOST/NAMESPACE/MODEL:TAG of a
    /// registry
    pub(crate) model: String,

    /// The branch, tag or commit to take the file from
    #[arg(long, default_value = "main", value_name = "NAME")]
    pub(crate) revision: String,

    /// Ranges of a big file to ask for at once; 1: one stream. Each holds 16 MiB of memory at most
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) streams: u8,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ShowArgs {
    /// A GGUF file, a directory with safetensors, or a name in the models folder or the store
    pub(crate) model: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PsArgs {
    /// Where the server listens
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    pub(crate) url: String,

    /// The server's key [env: QUIRE_API_KEY]
    #[arg(long)]
    pub(crate) api_key: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RmArgs {
    /// MODEL:TAG, as `quire list` shows them
    #[arg(required = true, value_name = "MODEL")]
    pub(crate) models: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CpArgs {
    /// MODEL:TAG, as `quire list` shows it
    pub(crate) source: String,

    /// The new MODEL:TAG
    pub(crate) destination: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CreateArgs {
    /// The new model's name
    pub(crate) model: String,

    /// FROM (a name in the store, or a GGUF file), PARAMETER, SYSTEM, TEMPLATE, MESSAGE, LICENSE
    #[arg(short, long, default_value = "Modelfile", value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, ClapArgs)]
#[command(allow_negative_numbers = true)]
pub(crate) struct PlanArgs {
    /// A GGUF file, a directory with safetensors, or a name in the models folder
    pub(crate) model: Option<String>,

    /// The memory to fit into, as 16G [default: what this machine has free]
    #[arg(long, value_parser = units::bytes, value_name = "BYTES")]
    pub(crate) memory: Option<u64>,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[derive(Debug, ClapArgs)]
#[command(allow_negative_numbers = true)]
pub(crate) struct DoctorArgs {
    /// A model whose plan is held against the limits: a GGUF file, a directory with safetensors, or a name
    pub(crate) model: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Compare the sizes of model files, not their sums
    #[arg(long)]
    pub(crate) quick: bool,

    /// The address that a server would listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,

    /// Ports that it would listen on
    #[arg(long = "port", value_delimiter = ',', default_value = "8000", value_name = "PORT")]
    pub(crate) ports: Vec<u16>,

    /// Connections that it would hold
    #[arg(long, default_value_t = 4096, value_name = "COUNT")]
    pub(crate) max_connections: usize,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TokenizeArgs {
    /// A GGUF file (one with a vocabulary and no weights will do), a directory, or a name in the models folder
    pub(crate) model: String,
}

/// The settings that every command has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommonOptions {
    pub(crate) models_dir: PathBuf,
    /// Ollama's store, read in place where there is one.
    pub(crate) ollama_dir: Option<PathBuf>,
    pub(crate) log_level: LogLevel,
    pub(crate) log_format: LogFormat,
}

impl CommonArgs {
    /// Flags first, then the environment, then the defaults.
    pub(crate) fn resolve(&self, environment: &Environment, quiet: bool) -> Result<CommonOptions> {
        let default_level = if quiet { LogLevel::Warn } else { LogLevel::Info };
        Ok(CommonOptions {
            models_dir: self.models_dir(environment)?,
            ollama_dir: environment.ollama_dir.clone(),
            log_level: self.log_level.or(environment.log_level).unwrap_or(default_level),
            log_format: self.log_format.or(environment.log_format).unwrap_or(LogFormat::Text),
        })
    }

    fn models_dir(&self, environment: &Environment) -> Result<PathBuf> {
        if let Some(dir) = self.models_dir.as_ref().or(environment.models_dir.as_ref()) {
            return Ok(dir.clone());
        }
        let here = PathBuf::from("models");
        if here.is_dir() {
            return Ok(here);
        }
        environment.cache_dir.clone().context("no home directory: name one with --models-dir")
    }
}

impl Command {
    /// Whether the terminal belongs to the command's own output.
    pub(crate) fn is_quiet(&self) -> bool {
        !matches!(self, Self::Serve(_))
    }
}

#[cfg(test)]
mod tests;
