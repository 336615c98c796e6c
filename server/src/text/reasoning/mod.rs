//! Reasoning: which parts of an answer a model wrote for itself. A format is a line of the table.

mod harmony;
mod pair;

use harmony::HarmonySplitter;
use pair::PairSplitter;

/// How a family of models marks its reasoning.
#[derive(Debug)]
pub struct ReasoningFormat {
    pub name: &'static str,
    /// Names that other servers have for it.
    pub aliases: &'static [&'static str],
    /// What the chat templates of these models hold: all of it.
    pub(super) signs: &'static [&'static str],
    /// Texts that mean something here; as control tokens they must be seen.
    pub(super) markers: &'static [&'static str],
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Pair(Pair),
    /// Messages on channels: see `harmony.rs`.
    Harmony,
}

/// Reasoning lies between two markers.
#[derive(Clone, Copy, Debug)]
struct Pair {
    open: &'static str,
    close: &'static str,
    /// It may also begin behind other text.
    anywhere: bool,
}

/// Of the formats whose signs a template has, the first is taken.
pub static FORMATS: &[ReasoningFormat] = &[
    ReasoningFormat {
        name: "harmony",
        aliases: &["gpt_oss", "openai_gptoss", "gptoss", "openai"],
        signs: &["<|channel|>", "<|message|>", "<|start|>"],
        markers: harmony::MARKERS,
        kind: Kind::Harmony,
    },
    ReasoningFormat {
        name: "gemma4",
        aliases: &[],
        signs: &["<|channel>thought", "<channel|>"],
        markers: &["<|channel>", "<channel|>"],
        kind: Kind::Pair(Pair { open: "<|channel>thought\n", close: "<channel|>", anywhere: true }),
    },
    ReasoningFormat {
        name: "mistral",
        aliases: &["magistral", "ministral"],
        signs: &["[THINK]"],
        markers: &["[THINK]", "[/THINK]"],
        kind: Kind::Pair(Pair { open: "[THINK]", close: "[/THINK]", anywhere: false }),
    },
    ReasoningFormat {
        name: "seed_oss",
        aliases: &[],
        signs: &["<seed:think>"],
        markers: &["<seed:think>", "</seed:think>"],
        kind: Kind::Pair(Pair { open: "<seed:think>", close: "</seed:think>", anywhere: false }),
    },
    ReasoningFormat {
        name: "think",
        aliases: &[
            "qwen3",
            "deepseek_r1",
            "deepseek_v3",
            "deepseek_v4",
            "glm45",
            "glm47",
            "kimi_k2",
            "minimax_m2",
            "step3",
            "nemotron_v3",
        ],
        signs: &["</think>"],
        markers: &["<think>", "</think>"],
        kind: Kind::Pair(Pair { open: "<think>", close: "</think>", anywhere: false }),
    },
];

/// A piece of an answer, told apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Reasoning(String),
    /// Content and tool calls.
    Text(String),
    /// A message ends here: what follows is no part of what came before.
    Break,
}

/// Tells reasoning from the rest while an answer grows. However the text is cut, the pieces joined are the same.
pub(super) enum Splitter {
    Pair(PairSplitter),
    Harmony(HarmonySplitter),
}

impl ReasoningFormat {
    /// For an answer that goes on from `prompt`, whose end may have begun the reasoning. `is_continued`: it ends with
    /// the beginning of the answer.
    pub(super) fn splitter(&self, prompt: &str, is_continued: bool) -> Splitter {
        match self.kind {
            Kind::Pair(pair) => Splitter::Pair(PairSplitter::new(pair, prompt, is_continued)),
            Kind::Harmony => Splitter::Harmony(HarmonySplitter::new(prompt)),
        }
    }
}

impl ReasoningFormat {
    /// What ends the reasoning, or a header, that `prompt` has begun, so that the answer is content from its start.
    pub(super) fn closing(&self, prompt: &str) -> String {
        match (&self.kind, self.splitter(prompt, false)) {
            (Kind::Pair(pair), splitter) if splitter.is_reasoning() => {
                format!("{}\n\n", pair.close)
            }
            (Kind::Pair(_), _) => String::new(),
            (Kind::Harmony, splitter) => splitter.closing().to_owned(),
        }
    }
}

impl Splitter {
    fn closing(&self) -> &'static str {
        match self {
            Self::Harmony(splitter) => splitter.closing(),
            Self::Pair(_) => "",
        }
    }

    pub(super) fn push(&mut self, text: &str, out: &mut Vec<Segment>) {
        match self {
            Self::Pair(splitter) => splitter.push(text, out),
            Self::Harmony(splitter) => splitter.push(text, out),
        }
    }

    /// No more text comes.
    pub(super) fn finish(&mut self, out: &mut Vec<Segment>) {
        match self {
            Self::Pair(splitter) => splitter.finish(out),
            Self::Harmony(splitter) => splitter.finish(out),
        }
    }

    /// Whether the text so far ends inside reasoning.
    pub(super) fn is_reasoning(&self) -> bool {
        match self {
            Self::Pair(splitter) => splitter.is_reasoning(),
            Self::Harmony(splitter) => splitter.is_reasoning(),
        }
    }

    /// Whether reasoning may still come or go on.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Pair(splitter) => splitter.is_over(),
            Self::Harmony(_) => false,
        }
    }
}
