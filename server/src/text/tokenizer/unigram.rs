//! Unigram (Kudo 2018): the pieces of a text whose scores together are best, after SentencePiece's clean-up.

use rustc_hash::FxHashMap;

use super::TokenizerError;
use super::character_table::CharacterTable;
use super::config::TokenizerConfig;
use super::vocabulary::{TokenKind, Vocabulary};

/// How far below the worst piece a character without one scores.
const UNKNOWN_PENALTY: f32 = 10.0;

const BLOCK: char = '\u{2581}';

pub(super) struct Unigram {
    /// Score and id of each token that ordinary text may become.
    pieces: FxHashMap<Box<str>, (f32, u32)>,
    max_piece_bytes: usize,
    unknown_score: f32,
    unk: u32,
    table: Option<CharacterTable>,
    collapses_spaces: bool,
}

impl Unigram {
    pub(super) fn new(
        vocabulary: &Vocabulary,
        config: &TokenizerConfig,
        unk: Option<u32>,
    ) -> Result<Self, TokenizerError> {
        let scores = &config.scores;
        if scores.len() != vocabulary.len() {
            return Err(TokenizerError::Length {
                key: "tokenizer.ggml.scores",
                found: scores.len(),
                expected: vocabulary.len(),
            });
        }
        let is_piece = |kind| matches!(kind, TokenKind::Normal | TokenKind::UserDefined);
        let pieces = vocabulary.ids_of_kind(is_piece).into_iter().filter_map(|id| {
            let text = vocabulary.text(id).filter(|text| !text.is_empty())?;
            Some((Box::from(text), (scores[id as usize], id)))
        });
        let pieces: FxHashMap<Box<str>, (f32, u32)> = pieces.collect();
        let worst = pieces.values().map(|&(score, _)| score).fold(0.0, f32::min);
        let table = match &config.character_table[..] {
            [] => None,
            bytes => Some(CharacterTable::new(bytes).ok_or(TokenizerError::CharacterTable)?),
        };
        Ok(Self {
            pieces,
            max_piece_bytes: vocabulary.max_text_bytes(),
            unknown_score: worst - UNKNOWN_PENALTY,
            unk: unk.ok_or(TokenizerError::NoUnknown)?,
            table,
            collapses_spaces: config.collapses_spaces,
        })
    }

    /// Appends the tokens of `text`, with a space before it where `has_space`.
    pub(super) fn encode(&self, text: &str, has_space: bool, out: &mut Vec<u32>) {
        let text = self.normalised(text, has_space);
        let mut unknown_before = false;
        for id in self.best_path(&text) {
            let is_unknown = id == self.unk;
            // Unknown characters in a row are one token.
            if !(is_unknown && unknown_before) {
                out.push(id);
            }
            unknown_before = is_unknown;
        }
    }

    fn normalised(&self, text: &str, has_space: bool) -> String {
        let text = match &self.table {
            Some(table) => table.normalise(text),
            None => text.to_owned(),
        };
        let mut result = String::with_capacity(text.len() + 3);
        let trimmed = if self.collapses_spaces { text.trim() } else { &text };
        let is_spaced = self.collapses_spaces && trimmed.starts_with(BLOCK);
        if has_space && !trimmed.is_empty() && !is_spaced {
            result.push(BLOCK);
        }
        let mut follows_space = false;
        for character in trimmed.chars() {
            let is_space = character == ' ' || (self.collapses_spaces && character.is_whitespace());
            if !(is_space && follows_space && self.collapses_spaces) {
                result.push(if is_space { BLOCK } else { character });
            }
            follows_space = is_space;
        }
        result
    }

    /// The ids of the best segmentation (Viterbi); of equal ones that with the longer last piece.
    fn best_path(&self, text: &str) -> Vec<u32> {
        #[derive(Clone, Copy)]
        struct End {
            score: f32,
            start: usize,
            id: u32,
        }
        let none = End { score: f32::NEG_INFINITY, start: 0, id: self.unk };
        let mut ends = vec![none; text.len() + 1];
        ends[0].score = 0.0;
        for (start, character) in text.char_indices() {
            let before = ends[start].score;
            let first_end = start + character.len_utf8();
            let mut has_single = false;
            let limit = text.len().min(start + self.max_piece_bytes);
            for end in (first_end..=limit).filter(|&end| text.is_char_boundary(end)) {
                let Some(&(score, id)) = self.pieces.get(&text[start..end]) else { continue };
                has_single |= end == first_end;
                if before + score > ends[end].score {
                    ends[end] = End { score: before + score, start, id };
                }
            }
            if !has_single && before + self.unknown_score > ends[first_end].score {
                ends[first_end] = End { score: before + self.unknown_score, start, id: self.unk };
            }
        }
        let (mut ids, mut end) = (Vec::new(), text.len());
        while end > 0 {
            ids.push(ends[end].id);
            end = ends[end].start;
        }
        ids.reverse();
        ids
    }
}
