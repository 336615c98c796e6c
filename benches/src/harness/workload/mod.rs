//! What is asked: conversations of one or more turns, made before the run, so that asking costs nothing.

mod file;
mod made;
mod supply;
mod trace;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

pub use self::made::Lengths;
pub use self::supply::Supply;

/// Conversations of a run that ends by time which are made before it; later ones cost the client some microseconds each.
const MADE_AHEAD: usize = 4096;

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
pub struct Workload {
    pub kind: WorkloadKind,
    pub input: Option<PathBuf>,
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

impl Workload {
    /// `num` conversations, or all of a trace if it has fewer. `first`: the number of the first one, so that runs of one
    /// command share no prompts.
    pub fn supply(&self, first: u64, num: usize) -> anyhow::Result<Supply> {
        let Some(mut all) = self.read()? else {
            return Ok(Supply::fixed(self.made(first, num), usize::MAX));
        };
        if self.kind == WorkloadKind::Trace {
            all.truncate(num);
            return Ok(Supply::fixed(all, usize::MAX));
        }
        let period = all.len();
        Ok(Supply::fixed(made::repeated(&all, first, num), period))
    }

    /// As many as are asked for: drawn on and on, or those of a file from its beginning again.
    pub fn endless(&self, first: u64) -> anyhow::Result<Supply> {
        let Some(all) = self.read()? else {
            let workload = self.clone();
            let make = move |index| workload.made(first + index as u64, 1).remove(0);
            return Ok(Supply::endless(MADE_AHEAD, usize::MAX, make));
        };
        let (period, start) = (all.len(), first as usize);
        Ok(Supply::endless(0, period, move |index| all[(start + index) % all.len()].clone()))
    }

    /// What --input holds; `None` where nothing is read.
    fn read(&self) -> anyhow::Result<Option<Vec<Conversation>>> {
        let name = || self.input.as_deref().unwrap_or(Path::new("")).display().to_string();
        let all = match (self.kind, self.input.as_deref()) {
            (WorkloadKind::Sharegpt, Some(path)) => {
                file::read(&text_of(path)?, self.lengths.output).with_context(name)?
            }
            (WorkloadKind::Trace, path) => {
                let path = path.context("--workload trace needs --input")?;
                trace::read(&text_of(path)?, self.salt).with_context(name)?
            }
            _ => return Ok(None),
        };
        ensure!(!all.is_empty(), "{}: it has no conversations", name());
        Ok(Some(all))
    }

    /// `num` conversations of drawn words.
    fn made(&self, first: u64, num: usize) -> Vec<Conversation> {
        match self.kind {
            WorkloadKind::Sharegpt => made::chats(self, first, num),
            WorkloadKind::Prefix => made::prefixed(self, first, num),
            WorkloadKind::Turns => made::turns(self, first, num),
            WorkloadKind::Random | WorkloadKind::Trace => made::random(self, first, num),
        }
    }
}

fn text_of(path: &Path) -> anyhow::Result<String> {
    const MAX_BYTES: u64 = 2 << 30;
    let size =
        std::fs::metadata(path).with_context(|| format!("--input {}", path.display()))?.len();
    ensure!(size <= MAX_BYTES, "--input {} has more than 2 GiB", path.display());
    std::fs::read_to_string(path).with_context(|| format!("--input {}", path.display()))
}
