//! Splitting text into the words that byte pair encoding works in.
//!
//! The expressions are those of the models' own tokenizer definitions. Their only construct that a
//! linear-time engine lacks, `\s+(?!\S)`, is done by [`Spaces`]: so no text is slow to split.

use std::ops::Range;

use regex_automata::meta::Regex;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};

use super::TokenizerError;
use super::pre_tokenizer_names::{PreTokenizerSpec, StageSpec};

/// Splits applied one after the other, each to the words of the one before.
pub(super) struct PreTokenizer {
    stages: Vec<Stage>,
}

enum Stage {
    /// Each match is a word, and so is each stretch between matches.
    Regex(Regex),
    /// As `Regex`; where it does not match, a run of white space is a word of its own.
    RegexThenSpaces(Regex, Spaces),
    /// Runs of digits in groups of three, counted from the right.
    DigitsFromRight { at_word_boundary: bool },
}

/// How much of a run of white space becomes one word.
#[derive(Clone, Copy, Debug)]
pub enum Spaces {
    /// All of a last run; else all but the last character, which belongs to the next word.
    AllButLast,
    /// As `AllButLast`, in falling powers of two from 512.
    PowersOfTwo,
}

impl PreTokenizer {
    pub(super) fn new(spec: &PreTokenizerSpec) -> Result<Self, TokenizerError> {
        let regex = |pattern: &str| {
            Regex::builder()
                .syntax(syntax::Config::new().unicode(true))
                .build(pattern)
                .map_err(|error| TokenizerError::PreTokenizer(format!("{pattern}: {error}")))
        };
        let stages = spec.stages.iter().map(|stage| {
            Ok::<Stage, TokenizerError>(match stage {
                StageSpec::Regex(pattern) => Stage::Regex(regex(pattern)?),
                StageSpec::Main(pattern) => {
                    Stage::RegexThenSpaces(regex(pattern)?, Spaces::AllButLast)
                }
                StageSpec::MainWithSpaces(pattern, spaces) => {
                    Stage::RegexThenSpaces(regex(pattern)?, *spaces)
                }
                StageSpec::DigitsFromRight { at_word_boundary } => {
                    Stage::DigitsFromRight { at_word_boundary: *at_word_boundary }
                }
            })
        });
        Ok(Self { stages: stages.collect::<Result<_, _>>()? })
    }

    /// Calls `emit` with each word of `text`, in order; together they are `text`.
    pub(super) fn split<'a>(&self, text: &'a str, mut emit: impl FnMut(&'a str)) {
        split_stages(&self.stages, text, &mut emit);
    }
}

fn split_stages<'a>(stages: &[Stage], text: &'a str, emit: &mut dyn FnMut(&'a str)) {
    if text.is_empty() {
        return;
    }
    let Some((stage, rest)) = stages.split_first() else { return emit(text) };
    let mut cursor = 0;
    stage.matches(text, &mut |found: Range<usize>| {
        split_stages(rest, &text[cursor..found.start], emit);
        split_stages(rest, &text[found.clone()], emit);
        cursor = found.end;
    });
    split_stages(rest, &text[cursor..], emit);
}

impl Stage {
    fn matches(&self, text: &str, emit: &mut dyn FnMut(Range<usize>)) {
        match self {
            Self::Regex(regex) => {
                regex.find_iter(text).filter(|found| !found.is_empty()).for_each(|found| {
                    emit(found.range());
                });
            }
            Self::RegexThenSpaces(regex, spaces) => match_or_spaces(regex, *spaces, text, emit),
            Self::DigitsFromRight { at_word_boundary } => {
                match_digits(text, *at_word_boundary, emit);
            }
        }
    }
}

fn match_or_spaces(regex: &Regex, spaces: Spaces, text: &str, emit: &mut dyn FnMut(Range<usize>)) {
    let mut at = 0;
    while at < text.len() {
        let input = Input::new(text).range(at..).anchored(Anchored::Yes);
        if let Some(found) = regex.find(input).filter(|found| !found.is_empty()) {
            emit(found.range());
            at = found.end();
            continue;
        }
        let rest = &text[at..];
        let run = &rest[..rest.len() - rest.trim_start().len()];
        if run.is_empty() {
            // No alternative takes this character: it joins the stretch up to the next match.
            at += rest.chars().next().map_or(1, char::len_utf8);
        } else {
            at = spaces.split(at..at + run.len(), text, emit);
        }
    }
}

impl Spaces {
    /// Splits a run of white space and gives the place of the rest, which the next word may take.
    fn split(self, run: Range<usize>, text: &str, emit: &mut dyn FnMut(Range<usize>)) -> usize {
        let num_chars = text[run.clone()].chars().count();
        let is_last = run.end == text.len();
        let mut num_left = if is_last { num_chars } else { (num_chars - 1).max(1) };
        let mut at = run.start;
        while num_left > 0 {
            let num_taken = match self {
                Self::AllButLast => num_left,
                Self::PowersOfTwo => 1 << num_left.ilog2().min(9),
            };
            let rest = &text[at..run.end];
            let num_bytes = rest.char_indices().nth(num_taken).map_or(rest.len(), |(end, _)| end);
            emit(at..at + num_bytes);
            at += num_bytes;
            num_left -= num_taken;
        }
        at
    }
}

fn match_digits(text: &str, at_word_boundary: bool, emit: &mut dyn FnMut(Range<usize>)) {
    let mut characters = text.char_indices().peekable();
    while let Some((start, character)) = characters.next() {
        if !character.is_numeric() {
            continue;
        }
        let mut starts = vec![start];
        while let Some((at, _)) = characters.next_if(|(_, next)| next.is_numeric()) {
            starts.push(at);
        }
        let end = characters.peek().map_or(text.len(), |&(at, _)| at);
        let touches_word = characters.peek().is_some_and(|&(_, next)| is_word_character(next));
        if at_word_boundary && touches_word {
            continue;
        }
        let mut first = 0;
        while first < starts.len() {
            let next = first + (starts.len() - first - 1) % 3 + 1;
            emit(starts[first]..starts.get(next).copied().unwrap_or(end));
            first = next;
        }
    }
}

fn is_word_character(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}
