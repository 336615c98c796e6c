//! What is asked: conversations of one or more turns, made before the run, so that asking costs nothing.

mod file;
mod made;
mod trace;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};

pub use self::made::Lengths;

/// What the user says in a turn, and how long the answer is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub text: String,
    pub max_tokens: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    pub system: Option<String>,
    pub turns: Vec<Turn>,
    /// When a trace began it, after its own start.
    pub at: Option<Duration>,
}

impl Conversation {
    fn single(text: String, max_tokens: usize) -> Self {
        Self { turns: vec![Turn { text, max_tokens }], ..Self::default() }
    }
}

/// Which conversations a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WorkloadKind {
    /// Drawn words, no two prompts alike
    Random,
    /// Lengths as people's chats have them; with --input a ShareGPT file or JSONL
    Sharegpt,
    /// Prompts that begin alike, in groups
    Prefix,
    /// Conversations of several turns
    Turns,
    /// Times and lengths of --input: JSONL with timestamp, input_length, output_length (Mooncake), or CSV (Azure)
    Trace,
}

/// How to make them.
#[derive(Clone, Debug)]
pub struct Workload<'a> {
    pub kind: WorkloadKind,
    pub input: Option<&'a Path>,
    pub lengths: Lengths,
    pub turns: usize,
    /// Prompts share one of so many beginnings.
    pub prefixes: usize,
    pub prefix_words: usize,
    /// Of lengths.
    pub seed: u64,
    /// Added to the numbers that prompts begin with and are drawn by.
    pub salt: u64,
}

impl Workload<'_> {
    /// `num` conversations, or all of a trace if it has fewer. `first`: the number of the first one, so that runs of one
    /// command share no prompts.
    pub fn conversations(&self, first: u64, num: usize) -> anyhow::Result<Vec<Conversation>> {
        let made = match (self.kind, self.input) {
            (WorkloadKind::Random, _) => made::random(self, first, num),
            (WorkloadKind::Sharegpt, None) => made::chats(self, first, num),
            (WorkloadKind::Sharegpt, Some(path)) => {
                let read = file::read(&text_of(path)?, self.lengths.output);
                made::repeated(read.with_context(|| path.display().to_string())?, first, num)
            }
            (WorkloadKind::Prefix, _) => made::prefixed(self, first, num),
            (WorkloadKind::Turns, _) => made::turns(self, first, num),
            (WorkloadKind::Trace, path) => {
                let path = path.context("--workload trace needs --input")?;
                let read = trace::read(&text_of(path)?, self.salt);
                let mut all = read.with_context(|| path.display().to_string())?;
                all.truncate(num);
                all
            }
        };
        ensure!(!made.is_empty(), "the workload has no conversations");
        Ok(made)
    }
}

fn text_of(path: &Path) -> anyhow::Result<String> {
    const MAX_BYTES: u64 = 2 << 30;
    let size =
        std::fs::metadata(path).with_context(|| format!("--input {}", path.display()))?.len();
    ensure!(size <= MAX_BYTES, "--input {} has more than 2 GiB", path.display());
    std::fs::read_to_string(path).with_context(|| format!("--input {}", path.display()))
}
