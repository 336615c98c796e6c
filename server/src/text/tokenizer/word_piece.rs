//! WordPiece: BERT's text clean-up, then the longest known piece at each place of a word.

use regex_syntax::hir::{Class, HirKind};
use unicode_normalization::UnicodeNormalization;

use super::TokenizerError;
use super::vocabulary::Vocabulary;

/// BERT gives up on longer words.
const MAX_WORD_CHARS: usize = 100;

pub(super) struct WordPiece {
    unk: u32,
    lowercase: bool,
    strip_accents: bool,
    max_piece_bytes: usize,
    punctuation: CharSet,
    control: CharSet,
    accents: CharSet,
}

impl WordPiece {
    pub(super) fn new(
        vocabulary: &Vocabulary,
        unk: u32,
        lowercase: bool,
        strip_accents: bool,
    ) -> Result<Self, TokenizerError> {
        Ok(Self {
            unk,
            lowercase,
            strip_accents,
            max_piece_bytes: vocabulary.max_text_bytes(),
            punctuation: CharSet::new(r"[\p{P}!-/:-@\[-`{-~]")?,
            control: CharSet::new(r"[\p{C}--[\t\n\r]]")?,
            accents: CharSet::new(r"\p{Mn}")?,
        })
    }

    pub(super) fn encode(&self, vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) {
        let mut word = String::from('\u{2581}');
        if self.strip_accents {
            self.encode_words(vocabulary, text.nfd(), &mut word, out);
        } else {
            self.encode_words(vocabulary, text.chars(), &mut word, out);
        }
    }

    fn encode_words(
        &self,
        vocabulary: &Vocabulary,
        characters: impl Iterator<Item = char>,
        word: &mut String,
        out: &mut Vec<u32>,
    ) {
        for character in characters {
            if character.is_whitespace() {
                self.finish_word(vocabulary, word, out);
            } else if character == '\u{fffd}'
                || self.control.contains(character)
                || (self.strip_accents && self.accents.contains(character))
            {
                // Cleaned away.
            } else {
                let stands_alone = self.punctuation.contains(character) || is_cjk(character);
                if stands_alone {
                    self.finish_word(vocabulary, word, out);
                }
                if self.lowercase {
                    word.extend(character.to_lowercase());
                } else {
                    word.push(character);
                }
                if stands_alone {
                    self.finish_word(vocabulary, word, out);
                }
            }
        }
        self.finish_word(vocabulary, word, out);
    }

    /// `word` begins with the U+2581 that marks the start of a word, and is left so.
    fn finish_word(&self, vocabulary: &Vocabulary, word: &mut String, out: &mut Vec<u32>) {
        let marker = '\u{2581}'.len_utf8();
        if word.len() > marker {
            let num_before = out.len();
            let mut rest = word.as_str();
            while !rest.is_empty() {
                let limit = self.max_piece_bytes.min(rest.len());
                let ends = (1..=limit).rev().filter(|&end| rest.is_char_boundary(end));
                let mut pieces = ends.map(|end| (end, vocabulary.ordinary_id_of(&rest[..end])));
                let found = pieces.find_map(|(end, id)| Some((end, id?)));
                let Some((end, id)) = found.filter(|_| word.chars().count() <= MAX_WORD_CHARS + 1)
                else {
                    out.truncate(num_before);
                    out.push(self.unk);
                    break;
                };
                out.push(id);
                rest = &rest[end..];
            }
        }
        word.truncate(marker);
    }
}

/// The blocks that BERT splits into single characters.
fn is_cjk(character: char) -> bool {
    matches!(character as u32,
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F
        | 0x2B740..=0x2B81F | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}

/// A set of characters, from the class of a regular expression.
struct CharSet {
    ranges: Vec<(char, char)>,
}

impl CharSet {
    fn new(class: &str) -> Result<Self, TokenizerError> {
        let hir = regex_syntax::parse(class)
            .map_err(|error| TokenizerError::PreTokenizer(error.to_string()))?;
        let HirKind::Class(Class::Unicode(class)) = hir.kind() else {
            return Err(TokenizerError::PreTokenizer(format!("{class} is no class")));
        };
        Ok(Self { ranges: class.ranges().iter().map(|r| (r.start(), r.end())).collect() })
    }

    fn contains(&self, character: char) -> bool {
        let after = self.ranges.partition_point(|&(start, _)| start <= character);
        after > 0 && character <= self.ranges[after - 1].1
    }
}
