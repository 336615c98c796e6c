//! SentencePiece BPE: the pair whose joined text has the best score merges first.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::TokenizerError;
use super::vocabulary::{TokenKind, Vocabulary};

pub(super) struct SentencePiece {
    /// Score and id of each token that ordinary text may become.
    pieces: FxHashMap<Box<str>, (f32, u32)>,
    byte_tokens: [Option<u32>; 256],
    unk: Option<u32>,
    max_piece_bytes: usize,
}

struct Symbol {
    start: usize,
    end: usize,
    previous: usize,
    next: usize,
}

const NONE: usize = usize::MAX;

/// A pair to merge; the greatest is merged first.
struct Candidate {
    score: f32,
    left: usize,
    /// Byte length of the joined text; a pair that changed since has another.
    num_bytes: usize,
}

impl SentencePiece {
    pub(super) fn new(
        vocabulary: &Vocabulary,
        scores: &[f32],
        unk: Option<u32>,
    ) -> Result<Self, TokenizerError> {
        if scores.len() != vocabulary.len() {
            return Err(TokenizerError::Length {
                key: "tokenizer.ggml.scores",
                found: scores.len(),
                expected: vocabulary.len(),
            });
        }
        let merging = |kind| matches!(kind, TokenKind::Normal | TokenKind::UserDefined);
        let pieces = vocabulary.ids_of_kind(merging).into_iter().filter_map(|id| {
            let text = vocabulary.text(id)?;
            Some((Box::from(text), (scores[id as usize], id)))
        });
        Ok(Self {
            pieces: pieces.collect(),
            byte_tokens: std::array::from_fn(|byte| vocabulary.id_of(&format!("<0x{byte:02X}>"))),
            unk,
            max_piece_bytes: vocabulary.max_text_bytes(),
        })
    }

    /// Appends the tokens of `text`, in which spaces are already U+2581.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) {
        for symbol in self.merge(text) {
            let piece = &text[symbol.start..symbol.end];
            match self.pieces.get(piece) {
                Some(&(_, id)) => out.push(id),
                None if self.byte_tokens[0].is_some() => {
                    out.extend(piece.bytes().filter_map(|byte| self.byte_tokens[byte as usize]));
                }
                None => out.extend(self.unk),
            }
        }
    }

    fn merge(&self, text: &str) -> impl Iterator<Item = Symbol> + use<> {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(index, (start, character))| Symbol {
                start,
                end: start + character.len_utf8(),
                previous: index.wrapping_sub(1),
                next: index + 1,
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        let mut queue = BinaryHeap::new();
        for left in 0..symbols.len() {
            queue.extend(self.candidate(text, &symbols, left));
        }
        while let Some(Candidate { left, num_bytes, .. }) = queue.pop() {
            let right = symbols[left].next;
            let is_current = symbols[left].end > symbols[left].start
                && symbols.get(right).is_some_and(|r| r.end - symbols[left].start == num_bytes);
            if !is_current {
                continue;
            }
            let after = symbols[right].next;
            symbols[left].end = symbols[right].end;
            symbols[left].next = after;
            symbols[right].end = symbols[right].start;
            symbols[right].next = NONE;
            if after != NONE {
                symbols[after].previous = left;
            }
            queue.extend(self.candidate(text, &symbols, symbols[left].previous));
            queue.extend(self.candidate(text, &symbols, left));
        }
        symbols.into_iter().filter(|symbol| symbol.end > symbol.start)
    }

    fn candidate(&self, text: &str, symbols: &[Symbol], left: usize) -> Option<Candidate> {
        let first = symbols.get(left)?;
        let joined = first.start..symbols.get(first.next)?.end;
        if joined.len() > self.max_piece_bytes {
            return None;
        }
        let &(score, _) = self.pieces.get(&text[joined.clone()])?;
        Some(Candidate { score, left, num_bytes: joined.len() })
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}
