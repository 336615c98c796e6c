//! `--speculative`: who guesses, by name, and what follows the name.

use std::fmt;
use std::str::FromStr;

use super::ngram::NGRAM;
use super::{KINDS, Proposer};
use crate::config::Speculative;
use crate::plan::MemoryPlan;
use crate::weights::ModelFiles;

/// A kind of proposer.
pub struct Kind {
    pub name: &'static str,
    /// What follows the name and a colon, as the help calls it; empty: nothing does.
    pub argument: &'static str,
    /// Whether it can be that, which is known before any file is opened.
    pub check: fn(&str) -> Result<(), String>,
    pub load: fn(Making) -> anyhow::Result<Box<dyn Proposer>>,
}

/// What a proposer is made of.
pub struct Making<'a> {
    pub settings: &'a Speculative,
    pub target: &'a ModelFiles,
    /// The plan of the draft model, where the method has one.
    pub draft: Option<&'a MemoryPlan>,
}

/// Who makes drafts: `ngram`, `draft:PATH`, …
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeculativeMethod {
    name: &'static str,
    argument: String,
}

impl SpeculativeMethod {
    /// Prompt lookup.
    pub fn ngram() -> Self {
        Self { name: NGRAM.name, argument: String::new() }
    }

    /// What follows the name, if it is the name of that kind.
    pub fn of(&self, kind: &Kind) -> Option<&str> {
        (self.name == kind.name).then_some(&self.argument)
    }

    pub(super) fn kind(&self) -> &'static Kind {
        let is_own = |kind: &&Kind| kind.name == self.name;
        KINDS.iter().find(is_own).expect("a method is made of a kind")
    }
}

impl fmt::Display for SpeculativeMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colon = if self.argument.is_empty() { "" } else { ":" };
        write!(f, "{}{colon}{}", self.name, self.argument)
    }
}

impl FromStr for SpeculativeMethod {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, argument) = text.split_once(':').unwrap_or((text, ""));
        let is_named = |kind: &&Kind| {
            let has_colon = text.len() > name.len();
            kind.name == name
                && has_colon != kind.argument.is_empty()
                && argument.is_empty() == kind.argument.is_empty()
        };
        let kind = KINDS.iter().find(is_named).ok_or_else(all_methods)?;
        (kind.check)(argument)?;
        Ok(Self { name: kind.name, argument: argument.to_owned() })
    }
}

/// What can be written.
fn all_methods() -> String {
    let form = |kind: &Kind| match kind.argument {
        "" => kind.name.to_owned(),
        argument => format!("{}:{argument}", kind.name),
    };
    let mut forms: Vec<String> = KINDS.iter().map(form).collect();
    let last = forms.pop().unwrap_or_default();
    format!("write {} or {last}", forms.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_read_as_they_are_written() {
        for text in ["ngram", "draft:/models/a:b.gguf", "eagle:head", "skip:4-8"] {
            let method: SpeculativeMethod = text.parse().expect("a method");
            assert_eq!(method.to_string(), text);
        }
        let all = "write ngram, draft:PATH, eagle:PATH or skip:FIRST-LAST";
        for text in ["", "ngrams", "ngram:", "ngram:3", "draft", "draft:", "eagle:", "skip:"] {
            assert_eq!(text.parse::<SpeculativeMethod>(), Err(all.to_owned()), "{text}");
        }
        for text in ["skip:4", "skip:8-4", "skip:a-b", "skip:1-99999"] {
            let error = text.parse::<SpeculativeMethod>().expect_err("no layers");
            assert!(error.contains("skip:FIRST-LAST"), "{error}");
        }
    }
}
