//! Byte pair encoding by merge rank, in O(n log n) of the word.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::TokenizerError;
use super::vocabulary::{BYTE_CHARACTERS, Vocabulary};

/// The merges of a vocabulary over symbol ids. Ids past the vocabulary are parts of merges that
/// are no tokens themselves.
pub(super) struct Bpe {
    merges: FxHashMap<(u32, u32), Merge>,
    start: StartSymbols,
    byte_tokens: [Option<u32>; 256],
    num_tokens: u32,
}

#[derive(Clone, Copy)]
struct Merge {
    rank: u32,
    result: u32,
}

/// What a word is before its first merge.
enum StartSymbols {
    Bytes(Box<[u32; 256]>),
    Characters(FxHashMap<char, u32>),
}

/// Buffers that live as long as one `encode` call.
#[derive(Default)]
pub(super) struct BpeScratch {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<(u32, usize)>>,
}

struct Symbol {
    id: u32,
    /// Byte offset in the word; the symbol ends where the next one starts.
    start: usize,
    previous: usize,
    next: usize,
}

const NONE: usize = usize::MAX;
/// The id of a symbol merged into its left neighbour.
const DEAD: u32 = u32::MAX;
/// The id of a character that no merge knows.
const UNKNOWN: u32 = u32::MAX - 1;

impl Bpe {
    /// BPE over bytes, each spelt as one character of the GPT-2 table.
    pub(super) fn over_bytes(
        vocabulary: &Vocabulary,
        merges: &[String],
    ) -> Result<Self, TokenizerError> {
        let mut interner = Interner::new(vocabulary);
        let start =
            BYTE_CHARACTERS.map(|character| interner.id_of(character.encode_utf8(&mut [0; 4])));
        let byte_tokens = start.map(|id| Some(id).filter(|&id| (id as usize) < vocabulary.len()));
        let merges = interner.merges(merges)?;
        Ok(Self {
            merges,
            start: StartSymbols::Bytes(Box::new(start)),
            byte_tokens,
            num_tokens: vocabulary.len() as u32,
        })
    }

    /// BPE over characters, with `<0xFF>` tokens for the bytes of unknown ones.
    pub(super) fn over_characters(
        vocabulary: &Vocabulary,
        merges: &[String],
    ) -> Result<Self, TokenizerError> {
        let mut interner = Interner::new(vocabulary);
        let merges = interner.merges(merges)?;
        let mut characters = FxHashMap::default();
        let tokens = (0..vocabulary.len() as u32)
            .filter(|&id| !vocabulary.kind(id).is_special())
            .filter_map(|id| Some((vocabulary.text(id)?, id)));
        for (text, id) in tokens.chain(interner.extra.iter().map(|(text, &id)| (text.as_str(), id)))
        {
            let mut letters = text.chars();
            if let (Some(letter), None) = (letters.next(), letters.next()) {
                characters.insert(letter, id);
            }
        }
        Ok(Self {
            merges,
            start: StartSymbols::Characters(characters),
            byte_tokens: std::array::from_fn(|byte| vocabulary.id_of(&format!("<0x{byte:02X}>"))),
            num_tokens: vocabulary.len() as u32,
        })
    }

    /// BPE over bytes for a vocabulary in rank order without a merge list: each token's merge is
    /// the last step of encoding its bytes with the tokens before it.
    pub(super) fn over_ranked_tokens(vocabulary: &Vocabulary) -> Result<Self, TokenizerError> {
        let mut bpe = Self::over_bytes(vocabulary, &[])?;
        let mut scratch = BpeScratch::default();
        for id in 0..vocabulary.len() as u32 {
            if vocabulary.kind(id).is_special() || vocabulary.bytes(id).len() < 2 {
                continue;
            }
            bpe.start_bytes(vocabulary.bytes(id), &mut scratch.symbols);
            bpe.merge(&mut scratch);
            let left = &scratch.symbols[0];
            let Some(right) = scratch.symbols.get(left.next) else { continue };
            if right.next == NONE {
                bpe.merges.insert((left.id, right.id), Merge { rank: id, result: id });
            }
        }
        Ok(bpe)
    }

    /// Appends the tokens of one word of the pre-tokenizer.
    pub(super) fn encode_word(&self, word: &str, scratch: &mut BpeScratch, out: &mut Vec<u32>) {
        match &self.start {
            StartSymbols::Bytes(_) => self.start_bytes(word.as_bytes(), &mut scratch.symbols),
            StartSymbols::Characters(ids) => {
                let starts = word.char_indices();
                let symbols = starts.map(|(at, c)| (at, ids.get(&c).copied().unwrap_or(UNKNOWN)));
                link(symbols, &mut scratch.symbols);
            }
        }
        self.merge(scratch);
        let mut index = if scratch.symbols.is_empty() { NONE } else { 0 };
        while index != NONE {
            let symbol = &scratch.symbols[index];
            let end = scratch.symbols.get(symbol.next).map_or(word.len(), |next| next.start);
            if symbol.id < self.num_tokens {
                out.push(symbol.id);
            } else {
                let bytes = &word.as_bytes()[symbol.start..end];
                out.extend(bytes.iter().filter_map(|&byte| self.byte_tokens[byte as usize]));
            }
            index = symbol.next;
        }
    }

    fn start_bytes(&self, bytes: &[u8], symbols: &mut Vec<Symbol>) {
        if let StartSymbols::Bytes(ids) = &self.start {
            link(bytes.iter().map(|&byte| ids[byte as usize]).enumerate(), symbols);
        }
    }

    /// Applies the merge of lowest rank, leftmost first, until none applies.
    fn merge(&self, scratch: &mut BpeScratch) {
        let BpeScratch { symbols, queue } = scratch;
        queue.clear();
        for left in 0..symbols.len().saturating_sub(1) {
            if let Some(merge) = self.merge_at(symbols, left) {
                queue.push(Reverse((merge.rank, left)));
            }
        }
        while let Some(Reverse((rank, left))) = queue.pop() {
            // An entry whose neighbours changed since has another rank now, or none.
            let Some(merge) = self.merge_at(symbols, left).filter(|merge| merge.rank == rank)
            else {
                continue;
            };
            let right = symbols[left].next;
            let after = symbols[right].next;
            symbols[left].id = merge.result;
            symbols[left].next = after;
            symbols[right].id = DEAD;
            if after != NONE {
                symbols[after].previous = left;
            }
            for start in [symbols[left].previous, left] {
                if let Some(merge) = self.merge_at(symbols, start) {
                    queue.push(Reverse((merge.rank, start)));
                }
            }
        }
    }

    fn merge_at(&self, symbols: &[Symbol], left: usize) -> Option<Merge> {
        let left = symbols.get(left)?;
        let right = symbols.get(left.next)?;
        self.merges.get(&(left.id, right.id)).copied()
    }
}

fn link(starts: impl Iterator<Item = (usize, u32)>, symbols: &mut Vec<Symbol>) {
    symbols.clear();
    for (index, (start, id)) in starts.enumerate() {
        symbols.push(Symbol { id, start, previous: index.wrapping_sub(1), next: index + 1 });
    }
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
}

/// Gives ids to the parts of merges that the vocabulary lacks.
struct Interner<'a> {
    vocabulary: &'a Vocabulary,
    extra: FxHashMap<String, u32>,
}

impl<'a> Interner<'a> {
    fn new(vocabulary: &'a Vocabulary) -> Self {
        Self { vocabulary, extra: FxHashMap::default() }
    }

    fn id_of(&mut self, text: &str) -> u32 {
        if let Some(id) = self.vocabulary.ordinary_id_of(text) {
            return id;
        }
        let next = (self.vocabulary.len() + self.extra.len()) as u32;
        *self.extra.entry(text.to_owned()).or_insert(next)
    }

    fn merges(
        &mut self,
        merges: &[String],
    ) -> Result<FxHashMap<(u32, u32), Merge>, TokenizerError> {
        let mut table = FxHashMap::default();
        table.reserve(merges.len());
        let mut joined = String::new();
        for (merge, rank) in merges.iter().zip(0..) {
            // The left part may itself begin with the separating space.
            let first = merge.chars().next().map_or(0, char::len_utf8);
            let (left, right) = merge[first..]
                .find(' ')
                .map(|at| (&merge[..first + at], &merge[first + at + 1..]))
                .ok_or_else(|| TokenizerError::Merge { rank, text: merge.clone() })?;
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let key = (self.id_of(left), self.id_of(right));
            let result = self.id_of(&joined);
            table.entry(key).or_insert(Merge { rank, result });
        }
        Ok(table)
    }
}
