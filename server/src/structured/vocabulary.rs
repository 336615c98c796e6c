//! The model's tokens as llguidance wants them: the bytes of each, control tokens apart from all text.

use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use std::sync::Arc;

use crate::text::Tokenizer;

/// Longer ones are not written: the tree of tokens is not deeper.
const MAX_TOKEN_BYTES: usize = 1000;

/// Sets of tokens that are allowed as one where a grammar takes all of them, most of all within strings: each is the text of such
/// a set. Strings of limited length pass the lengths one after the other.
fn slices() -> Vec<String> {
    const CHARACTER: &str = r#"[^"\\\x00-\x1F\x7F]"#;
    let lengths = ["{1,5}", "{1,10}", "{1,15}", "{1,30}", "+"];
    let strings = lengths.map(|length| format!("{CHARACTER}{length}"));
    [r"[\x20\x0A\x0D\x09]+".to_owned()].into_iter().chain(strings).collect()
}

/// What keeps a grammar from taking all time and memory. Those of a mask are a few milliseconds.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 100_000,
        step_max_items: 50_000,
        // One to two kilobytes each.
        max_lexer_states: 25_000,
        max_grammar_size: 250_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

/// Makes parsers over the tokens of `tokenizer`, of which `end_tokens` end an answer.
pub(super) fn factory(tokenizer: &Tokenizer) -> anyhow::Result<ParserFactory> {
    let num_tokens = tokenizer.vocab_size() as u32;
    let ends: Vec<u32> =
        tokenizer.eos_token_ids().iter().copied().filter(|&token| token < num_tokens).collect();
    anyhow::ensure!(!ends.is_empty(), "the model has no token that ends an answer");
    let words: Vec<Vec<u8>> = (0..num_tokens).map(|token| bytes_of(tokenizer, token)).collect();
    let trie = TokTrie::from(&TokRxInfo::new(num_tokens, ends[0]), &words).with_eos_tokens(&ends);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory =
        ParserFactory::new(&environment, InferenceCapabilities::default(), &slices())?;
    factory.quiet();
    *factory.limits_mut() = limits();
    Ok(factory)
}

fn bytes_of(tokenizer: &Tokenizer, token: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes_with_special(token);
    if bytes.len() > MAX_TOKEN_BYTES {
        return Vec::new();
    }
    if tokenizer.is_special(token) || tokenizer.eos_token_ids().contains(&token) {
        return [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat();
    }
    bytes.to_vec()
}
