//! Tokens to text, one at a time.

use std::sync::Arc;

use super::tokenizer::Tokenizer;

/// Decodes a stream of tokens into text that is certain: never half a character.
///
/// The pieces together are what the tokens decode to at once. Bytes that cannot be UTF-8 become
/// U+FFFD, as in [`String::from_utf8_lossy`].
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// Control tokens that are shown all the same.
    shown: Vec<u32>,
    /// The vocabulary's leading space is still to be dropped.
    drops_space: bool,
    pending: Vec<u8>,
    text: String,
}

impl Detokenizer {
    /// Decodes a whole text. `skip_special` leaves out the texts of control tokens.
    pub fn new(tokenizer: &Arc<Tokenizer>, skip_special: bool) -> Self {
        let drops_space = tokenizer.adds_leading_space();
        Self { drops_space, ..Self::continuing(tokenizer, skip_special) }
    }

    /// Decodes tokens that go on from others: their first space is part of the text.
    pub fn continuing(tokenizer: &Arc<Tokenizer>, skip_special: bool) -> Self {
        Self {
            tokenizer: Arc::clone(tokenizer),
            skip_special,
            shown: Vec::new(),
            drops_space: false,
            pending: Vec::new(),
            text: String::new(),
        }
    }

    /// Shows these control tokens, whatever becomes of the others.
    pub fn showing(self, shown: Vec<u32>) -> Self {
        Self { shown, ..self }
    }

    /// Takes a token and gives the text that is certain now, often empty.
    pub fn push(&mut self, token: u32) -> &str {
        let mut bytes = if self.skip_special && !self.shown.contains(&token) {
            self.tokenizer.token_bytes(token)
        } else {
            self.tokenizer.token_bytes_with_special(token)
        };
        if self.drops_space && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            self.drops_space = false;
        }
        self.pending.extend_from_slice(bytes);
        self.text.clear();
        let num_taken = decode_certain(&self.pending, &mut self.text);
        self.pending.drain(..num_taken);
        &self.text
    }

    /// The text of the bytes still held back; the next push begins a new character.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        if !self.pending.is_empty() {
            self.text.push('\u{fffd}');
            self.pending.clear();
        }
        &self.text
    }

    /// Decodes `tokens` at once.
    pub fn decode(tokenizer: &Arc<Tokenizer>, tokens: &[u32], skip_special: bool) -> String {
        let mut detokenizer = Self::new(tokenizer, skip_special);
        let mut text = String::new();
        for &token in tokens {
            text.push_str(detokenizer.push(token));
        }
        text.push_str(detokenizer.finish());
        text
    }
}

/// Appends all but a last unfinished character and gives the number of bytes used.
fn decode_certain(bytes: &[u8], text: &mut String) -> usize {
    let mut num_taken = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        num_taken += chunk.valid().len();
        let invalid = chunk.invalid();
        let is_last = num_taken + invalid.len() == bytes.len();
        let is_unfinished = std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
        if invalid.is_empty() || (is_last && is_unfinished) {
            break;
        }
        text.push('\u{fffd}');
        num_taken += invalid.len();
    }
    num_taken
}
