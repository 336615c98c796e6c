//! Tool calls in what a model writes: a format is one file and one line of the table.

mod cursor;
mod deepseek;
mod dsml;
mod forced;
mod gemma4;
mod glm;
mod harmony;
mod hermes;
mod json;
mod kimi_k2;
mod llama_json;
mod mistral;
mod pythonic;
mod qwen3_coder;
mod reader;
mod set;
mod told;

pub use set::{Tool, ToolChoice, ToolRequest, ToolSet};

pub(super) use reader::{Found, ToolReader};
pub(super) use told::tell;

use cursor::Scan;

/// How a family of models writes calls.
#[derive(Debug)]
pub struct ToolFormat {
    pub name: &'static str,
    /// Names that other servers have for it.
    pub aliases: &'static [&'static str],
    /// What the chat templates of these models hold: all texts of one of the lists.
    pub(super) signs: &'static [&'static [&'static str]],
    /// What a call begins with.
    openers: &'static [&'static str],
    /// What a call begins with where nothing but calls was written before it.
    leading: &'static [&'static str],
    /// What may follow a call and says nothing.
    closers: &'static [&'static str],
    /// Other texts that mean something here. Control tokens among all these must be seen.
    inner: &'static [&'static str],
    /// What a call of `{name}` begins with, up to arguments that are JSON; empty where they are not.
    prefix: &'static str,
    /// Reads what begins with an opener.
    read: fn(&mut cursor::Cursor<'_>, &ToolSet) -> Scan<Vec<RawCall>>,
    ids: Ids,
}

/// How tools are told and called where the chat template does not say.
pub(super) static FALLBACK: &ToolFormat = &hermes::FORMAT;

/// Of the formats that a template has signs of, the first is taken.
pub static FORMATS: &[ToolFormat] = &[
    harmony::FORMAT,
    gemma4::FORMAT,
    dsml::FORMAT,
    deepseek::FORMAT,
    kimi_k2::FORMAT,
    mistral::FORMAT,
    glm::FORMAT,
    qwen3_coder::FORMAT,
    pythonic::FORMAT,
    llama_json::FORMAT,
    hermes::FORMAT,
];

/// A call as it was read.
#[derive(Debug, Default, PartialEq, Eq)]
struct RawCall {
    /// Where the model gives one.
    id: Option<String>,
    name: String,
    /// A JSON object.
    arguments: String,
}

/// What ids of calls look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ids {
    /// `call_` and 24 hexadecimal digits.
    Call,
    /// Nine letters or digits: the templates of Mistral take no others.
    Nine,
}

impl ToolFormat {
    /// What a prompt ends with so that the answer is the arguments of a call.
    pub(super) fn prefix_of(&self, name: &str) -> String {
        self.prefix.replace("{name}", name)
    }

    /// The format in which an answer with demanded calls comes.
    pub(super) fn of_choice(choice: &ToolChoice) -> Option<&'static Self> {
        match choice {
            ToolChoice::None | ToolChoice::Auto => None,
            ToolChoice::Required => Some(&forced::REQUIRED),
            ToolChoice::Named(_) => Some(&forced::NAMED),
        }
    }

    /// The texts that a parser must see though they are control tokens.
    pub(super) fn markers(&self) -> impl Iterator<Item = &'static str> {
        [self.openers, self.leading, self.closers, self.inner].into_iter().flatten().copied()
    }
}

impl Ids {
    fn fresh(self) -> String {
        let id = uuid::Uuid::new_v4().simple().to_string();
        match self {
            Self::Call => format!("call_{}", &id[..24]),
            Self::Nine => id[..9].to_owned(),
        }
    }
}
