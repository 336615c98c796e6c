//! The normalizer and pre-tokenizer of tokenizer.json, as what this tokenizer does, or an error that names the step.

use serde_json::Value;

use crate::text::tokenizer::{GPT2, SpacePrefix, StageSpec};

const BLOCK: &str = "\u{2581}";
/// The end of most expressions, which [`StageSpec::Main`] stands for.
const SPACES_TAIL: &str = r"|\s+(?!\S)|\s+";

/// Possessive repeats that what follows makes no different from greedy ones: the class after each shares no character
/// with it.
const POSSESSIVE: [(&str, &str); 2] = [
    (r"[^\r\n\p{L}\p{N}]?+\p{L}", r"[^\r\n\p{L}\p{N}]?\p{L}"),
    (r"[^\s\p{L}\p{N}]++[\r\n]", r"[^\s\p{L}\p{N}]+[\r\n]"),
];

/// What one engine reads otherwise than the other, or not at all: anywhere, and outside classes.
const UNSUPPORTED: [&str; 17] = [
    "[:", "--", "~~", r"\w", r"\W", r"\b", r"\B", r"\h", r"\H", r"\K", r"\G", r"\X", r"\R", r"\A",
    r"\z", r"\Z", r"\k",
];
const UNSUPPORTED_OUTSIDE: [&str; 9] = ["(?=", "(?!", "(?<", "(?>", "++", "*+", "?+", "^", "$"];

/// What is done to a text before it is split.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Normalizer {
    /// NFC.
    pub(super) composes: bool,
    /// U+2581 for each space.
    pub(super) replaces_spaces: bool,
    /// U+2581 before each text.
    pub(super) prepends_space: bool,
}

/// How a text is split, and what its words are made of.
#[derive(Debug, Default)]
pub(super) struct Splits {
    pub(super) stages: Vec<StageSpec>,
    pub(super) is_byte_level: bool,
    /// Set by Metaspace, which also replaces spaces.
    pub(super) metaspace: Option<SpacePrefix>,
}

impl Normalizer {
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let mut normalizer = Self::default();
        normalizer.add(value)?;
        Ok(normalizer)
    }

    fn add(&mut self, value: &Value) -> Result<(), String> {
        let kind = match value["type"].as_str() {
            None if value.is_null() => return Ok(()),
            kind => kind.unwrap_or("without a type"),
        };
        match kind {
            "Sequence" => {
                value["normalizers"].as_array().into_iter().flatten().try_for_each(|v| self.add(v))
            }
            "NFC" => {
                self.composes = true;
                Ok(())
            }
            // Spaces are replaced after this one, as they are here.
            "Prepend" if value["prepend"] == BLOCK && !self.replaces_spaces => {
                self.prepends_space = true;
                Ok(())
            }
            "Replace" if value["pattern"]["String"] == " " && value["content"] == BLOCK => {
                self.replaces_spaces = true;
                Ok(())
            }
            _ => Err(format!("normalizer: {kind:?} with these settings is not supported")),
        }
    }
}

impl Splits {
    /// `replaces_spaces`: the normalizer leaves no space to split at.
    pub(super) fn read(value: &Value, replaces_spaces: bool) -> Result<Self, String> {
        let mut splits = Self::default();
        splits
            .add(value, replaces_spaces)
            .map_err(|problem| format!("pre_tokenizer: {problem}"))?;
        Ok(splits)
    }

    fn add(&mut self, value: &Value, replaces_spaces: bool) -> Result<(), String> {
        let kind = match value["type"].as_str() {
            None if value.is_null() => return Ok(()),
            kind => kind.unwrap_or("without a type"),
        };
        if self.is_byte_level || self.metaspace.is_some() {
            return Err(format!("{kind:?} behind ByteLevel or Metaspace is not supported"));
        }
        match kind {
            "Sequence" => {
                let inner = value["pretokenizers"].as_array().into_iter().flatten();
                inner.into_iter().try_for_each(|value| self.add(value, replaces_spaces))
            }
            "ByteLevel" if value["add_prefix_space"] == true => {
                Err("ByteLevel with add_prefix_space is not supported".to_owned())
            }
            "ByteLevel" => {
                if value["use_regex"] != false {
                    self.stages.push(StageSpec::Main(GPT2.to_owned()));
                }
                self.is_byte_level = true;
                Ok(())
            }
            "Digits" => {
                let each = value["individual_digits"] == true;
                self.stages.push(StageSpec::Regex(if each { r"\p{N}" } else { r"\p{N}+" }.into()));
                Ok(())
            }
            "Split" => self.add_split(value, replaces_spaces),
            "Metaspace" => self.add_metaspace(value),
            _ => Err(format!("{kind:?} is not supported")),
        }
    }

    fn add_split(&mut self, value: &Value, replaces_spaces: bool) -> Result<(), String> {
        let pattern = &value["pattern"];
        let literal = pattern["String"].as_str();
        if literal == Some(" ") && replaces_spaces {
            return Ok(());
        }
        let behavior = value["behavior"].as_str().unwrap_or_default();
        if behavior != "Isolated" || value["invert"] == true {
            return Err(format!("Split with behavior {behavior:?} is not supported"));
        }
        let stage = match (literal, pattern["Regex"].as_str()) {
            (Some(literal), _) => StageSpec::Regex(regex_syntax::escape(literal)),
            (None, Some(regex)) => stage(regex)?,
            (None, None) => return Err("Split without a pattern".to_owned()),
        };
        self.stages.push(stage);
        Ok(())
    }

    fn add_metaspace(&mut self, value: &Value) -> Result<(), String> {
        if value["replacement"] != BLOCK {
            return Err("Metaspace with another replacement than U+2581 is not supported".into());
        }
        let scheme = match (value["prepend_scheme"].as_str(), value["add_prefix_space"].as_bool()) {
            (Some(scheme), _) => scheme,
            (None, Some(false)) => "never",
            (None, _) => "always",
        };
        self.metaspace = Some(match scheme {
            "always" => SpacePrefix::EachUnspaced,
            "first" => SpacePrefix::FirstUnspaced,
            "never" => SpacePrefix::Never,
            other => return Err(format!("Metaspace with prepend_scheme {other:?}")),
        });
        if value["split"] != false {
            self.stages.push(StageSpec::Regex(format!("{BLOCK}[^{BLOCK}]*")));
        }
        Ok(())
    }
}

/// An expression as a stage that splits alike, if all of it means the same here.
fn stage(pattern: &str) -> Result<StageSpec, String> {
    let mut head = pattern.strip_suffix(SPACES_TAIL).unwrap_or(pattern).to_owned();
    let has_tail = head.len() < pattern.len();
    for (possessive, greedy) in POSSESSIVE {
        head = head.replace(possessive, greedy);
    }
    if let Some(construct) = unsupported(&head) {
        return Err(format!("the expression {pattern:?} uses {construct}, which is not supported"));
    }
    Ok(if has_tail { StageSpec::Main(head) } else { StageSpec::Regex(head) })
}

/// The first construct of `pattern` that cannot be taken over.
fn unsupported(pattern: &str) -> Option<&'static str> {
    let mut depth = 0_usize;
    unescaped(pattern).find_map(|at| {
        let rest = &pattern[at..];
        match rest.as_bytes()[0] {
            b'[' => depth += 1,
            b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let escaped = rest.strip_prefix('\\');
        if escaped.is_some_and(|next| next.starts_with(|c: char| c.is_ascii_digit())) {
            return Some("a back reference");
        }
        let outside = UNSUPPORTED_OUTSIDE.iter().filter(|_| depth == 0);
        UNSUPPORTED.iter().chain(outside).copied().find(|construct| rest.starts_with(construct))
    })
}

/// Where characters begin that no backslash stands before.
fn unescaped(pattern: &str) -> impl Iterator<Item = usize> + '_ {
    let mut is_escaped = false;
    pattern.char_indices().filter_map(move |(at, character)| {
        let starts = !is_escaped;
        is_escaped = starts && character == '\\';
        starts.then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_taken_over_or_refused() {
        let llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+";
        let whole = format!("{llama3}{SPACES_TAIL}");
        assert!(matches!(stage(&whole), Ok(StageSpec::Main(head)) if head == llama3));
        let possessive = whole.replace("]?\\p", "]?+\\p").replace("]+[\\r\\n]", "]++[\\r\\n]");
        assert!(possessive != whole);
        assert!(matches!(stage(&possessive), Ok(StageSpec::Main(head)) if head == llama3));
        assert!(matches!(stage(r"\p{N}{1,3}"), Ok(StageSpec::Regex(_))));
        assert!(matches!(stage(r"[\^$*+]+\$\\+[^é(?=]"), Ok(StageSpec::Regex(_))));
        for refused in [
            r"\d(?=x)",
            r"a++",
            r"\w+",
            r"^a",
            r"a$",
            r"[[:alpha:]]",
            r"(?<!a)b",
            r"\s+(?!\S)|\s+|a",
        ] {
            assert!(stage(refused).is_err(), "{refused}");
        }
    }
}
