//! A vocabulary for models without one: the bytes, then numbers. What dummy weights say means nothing in any vocabulary.

use super::config::TokenizerConfig;
use super::vocabulary::BYTE_CHARACTERS;

impl TokenizerConfig {
    /// At least 256 tokens: every text has tokens, every token a text. Without tokens that end an answer.
    pub fn placeholder(vocab_size: usize) -> Self {
        let bytes = BYTE_CHARACTERS.iter().map(char::to_string);
        // As GPT-2's vocabularies write a space and a number.
        let numbers = (256..vocab_size.max(256)).map(|id| format!("\u{120}{id}"));
        Self {
            model: "gpt2".to_owned(),
            pre: Some("gpt-2".to_owned()),
            tokens: bytes.chain(numbers).collect(),
            merges: vec!["t h".to_owned()],
            add_bos: Some(false),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::text::{SpecialTokens, Tokenizer, TokenizerConfig};

    #[test]
    fn texts_are_bytes_and_every_token_has_a_text() {
        let tokenizer = Tokenizer::new(&TokenizerConfig::placeholder(1000)).expect("it is whole");
        let text = "Hello, the wörld 123";
        let ids = tokenizer.encode(text, SpecialTokens::AsText);
        assert_eq!(ids.len(), text.len());
        assert_eq!(tokenizer.token_text(999), Some("\u{120}999"));
    }
}
