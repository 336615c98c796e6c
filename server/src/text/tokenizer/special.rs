//! Finding special tokens in text, and keeping them out of text that a user wrote.

use std::ops::Range;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, Input, MatchKind};

use super::TokenizerError;
use super::vocabulary::{TokenKind, Vocabulary};

/// What the text of a control token means where it stands in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// Ordinary text: what a user wrote.
    AsText,
    /// The token: what a chat template wrote.
    Parse,
}

/// The texts of all control tokens of a vocabulary.
pub struct ControlTexts {
    matcher: Matcher,
    edges: Vec<char>,
}

/// One piece of a split text, in order.
pub(super) enum Piece<'a> {
    Text(&'a str),
    Token(u32),
}

/// Splits a text at the tokens that are never made by merging.
pub(super) struct SpecialSplitter {
    control: Arc<ControlTexts>,
    user_defined: Matcher,
    strips: Strips,
}

/// The tokens that swallow white space beside them.
#[derive(Default)]
pub(super) struct Strips {
    pub(super) left: Vec<u32>,
    pub(super) right: Vec<u32>,
}

impl Strips {
    /// What is left of the text before `id`.
    fn before<'a>(&self, id: u32, text: &'a str) -> &'a str {
        if self.left.contains(&id) { text.trim_end() } else { text }
    }

    /// How many bytes of the text behind `id` it takes.
    fn num_behind(&self, id: u32, text: &str) -> usize {
        if self.right.contains(&id) { text.len() - text.trim_start().len() } else { 0 }
    }
}

impl ControlTexts {
    /// `texts` are pairs of text and id. Texts of one character are never found: nothing could
    /// tell a client's from the template's.
    pub fn new(mut texts: Vec<(String, u32)>) -> Result<Self, TokenizerError> {
        texts.retain(|(text, _)| text.chars().count() > 1);
        let ends = texts.iter().flat_map(|(text, _)| [text.chars().next(), text.chars().last()]);
        let mut edges: Vec<char> =
            ends.flatten().filter(|character| !character.is_alphanumeric()).collect();
        edges.sort_unstable();
        edges.dedup();
        Ok(Self { matcher: Matcher::new(texts)?, edges })
    }

    /// Whether a control token may begin or end with `character`.
    pub fn is_edge(&self, character: char) -> bool {
        self.edges.binary_search(&character).is_ok()
    }

    /// Places and ids of the control tokens in `text`, leftmost and longest first. None spans a
    /// barrier: a byte offset inside `text`, in ascending order.
    pub fn find(&self, text: &str, barriers: &[usize]) -> Vec<(Range<usize>, u32)> {
        let mut found = Vec::new();
        let mut start = 0;
        for end in barriers.iter().copied().chain([text.len()]) {
            found.extend(self.matcher.find(text, start..end));
            start = end;
        }
        found
    }
}

impl SpecialSplitter {
    pub(super) fn new(vocabulary: &Vocabulary, strips: Strips) -> Result<Self, TokenizerError> {
        let texts = |wanted: &dyn Fn(TokenKind) -> bool| {
            let ids = vocabulary.ids_of_kind(wanted).into_iter();
            ids.filter_map(|id| Some((vocabulary.text(id)?.to_owned(), id))).collect()
        };
        Ok(Self {
            control: Arc::new(ControlTexts::new(texts(&TokenKind::is_special))?),
            user_defined: Matcher::new(texts(&|kind| kind == TokenKind::UserDefined))?,
            strips,
        })
    }

    pub(super) fn control_texts(&self) -> &Arc<ControlTexts> {
        &self.control
    }

    pub(super) fn split<'a>(
        &self,
        text: &'a str,
        special: SpecialTokens,
        barriers: &[usize],
        mut emit: impl FnMut(Piece<'a>),
    ) {
        let mut cursor = 0;
        if special == SpecialTokens::Parse {
            for (range, id) in self.control.find(text, barriers) {
                if range.start < cursor {
                    continue;
                }
                let before = self.strips.before(id, &text[cursor..range.start]);
                self.split_user_defined(before, &mut emit);
                emit(Piece::Token(id));
                cursor = range.end + self.strips.num_behind(id, &text[range.end..]);
            }
        }
        self.split_user_defined(&text[cursor..], &mut emit);
    }

    fn split_user_defined<'a>(&self, text: &'a str, emit: &mut impl FnMut(Piece<'a>)) {
        let mut cursor = 0;
        for (range, id) in self.user_defined.find(text, 0..text.len()) {
            if range.start < cursor {
                continue;
            }
            emit(Piece::Text(self.strips.before(id, &text[cursor..range.start])));
            emit(Piece::Token(id));
            cursor = range.end + self.strips.num_behind(id, &text[range.end..]);
        }
        emit(Piece::Text(&text[cursor..]));
    }
}

/// Many texts searched for at once, in time linear in the searched text.
struct Matcher {
    automaton: AhoCorasick,
    ids: Vec<u32>,
}

impl Matcher {
    fn new(mut texts: Vec<(String, u32)>) -> Result<Self, TokenizerError> {
        texts.retain(|(text, _)| !text.is_empty());
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts.iter().map(|(text, _)| text))
            .map_err(|error| TokenizerError::SpecialTokens(error.to_string()))?;
        Ok(Self { automaton, ids: texts.into_iter().map(|(_, id)| id).collect() })
    }

    fn find<'a>(
        &'a self,
        text: &'a str,
        range: Range<usize>,
    ) -> impl Iterator<Item = (Range<usize>, u32)> + 'a {
        let input = Input::new(text).range(range);
        self.automaton
            .find_iter(input)
            .map(|found| (found.range(), self.ids[found.pattern().as_usize()]))
    }
}
