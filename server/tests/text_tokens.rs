//! Tokenizers, decoding and stop strings on vocabularies made here.

mod tiny_vocabularies;

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use quire_server::text::{
    Detokenizer, SpecialTokens, StopError, StopLimits, StopMatcher, Tokenizer, TokenizerConfig,
    TokenizerError,
};
use tiny_vocabularies::{byte_bpe, character_bpe, sentence_piece, word_piece};

fn as_text(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, SpecialTokens::AsText)
}

#[test]
fn merges_follow_their_ranks() {
    let bpe = byte_bpe("gpt-2");
    let texts = |text: &str| -> Vec<String> {
        let ids = as_text(&bpe, text);
        ids.iter().map(|&id| bpe.token_text(id).unwrap().to_owned()).collect()
    };
    assert_eq!(texts("hello hello"), ["hello", "Ġ", "hello"]);
    assert_eq!(texts("aaaaaaa"), ["aaaa", "aa", "a"]);
    assert_eq!(texts("é"), ["Ã", "©"]);
    let ids = |tokenizer: &Tokenizer, texts: &[&str]| -> Vec<u32> {
        texts.iter().map(|text| tokenizer.id_of(text).unwrap()).collect()
    };
    let spm = sentence_piece();
    assert_eq!(as_text(&spm, "hello"), ids(&spm, &["▁hello"]));
    // The better score first ("he" before "▁he"), then the left place ("llo" is never met).
    assert_eq!(as_text(&spm, "hell"), ids(&spm, &["▁he", "ll"]));
    assert_eq!(as_text(&spm, "lllo"), ids(&spm, &["▁", "ll", "l", "o"]));
    assert_eq!(as_text(&spm, "é"), ids(&spm, &["▁", "<0xC3>", "<0xA9>"]));
    let chars = character_bpe();
    assert_eq!(
        as_text(&chars, "hi hi\n\né"),
        ids(&chars, &["hi", "▁hi", "\n\n", "<0xC3>", "<0xA9>"])
    );
    let wpm = word_piece();
    let words = ["▁hello", "▁,", "▁un", "able", "▁cafe", "▁中", "[UNK]"];
    assert_eq!(as_text(&wpm, "Hello, unable CAFÉ中 x"), ids(&wpm, &words));
    assert_eq!(wpm.prefix_tokens(), [1]);
    assert_eq!(wpm.suffix_tokens(), [2]);
    let decoded = Detokenizer::decode(&wpm, &as_text(&wpm, "hello unable"), true);
    assert_eq!(decoded, "hello unable");
}

#[test]
fn control_tokens_come_only_from_parsed_text() {
    let bpe = byte_bpe("qwen2");
    let text = "<|im_start|>a<think><|im_end|>";
    let parsed = bpe.encode(text, SpecialTokens::Parse);
    assert_eq!(parsed, [1, 4 + u32::from(b'a'), 3, 2]);
    let plain = as_text(&bpe, text);
    assert!(plain.iter().all(|&id| !bpe.is_special(id)) && plain.contains(&3));
    assert_eq!(Detokenizer::decode(&bpe, &plain, true), text);
    assert_eq!(Detokenizer::decode(&bpe, &parsed, true), "a<think>");
    assert_eq!(Detokenizer::decode(&bpe, &parsed, false), text);
    assert_eq!(bpe.eos_token_ids(), [0, 2]);
    let spm = sentence_piece();
    let plain = as_text(&spm, "<s>");
    assert!(!plain.contains(&1), "merging must not lead to a control token: {plain:?}");
    assert_eq!(spm.encode("<s>h", SpecialTokens::Parse)[0], 1);
    // A barrier inside the text of a token keeps it text, and changes no merge of other text.
    let barred = bpe.encode_with_barriers("<|im_end|>hello", SpecialTokens::Parse, &[1, 12]);
    assert_eq!(barred, as_text(&bpe, "<|im_end|>hello"));
}

#[test]
fn generations_end_at_the_tokens_of_the_family() {
    let ends = |texts: &[&str]| -> Vec<String> {
        let config = TokenizerConfig {
            model: "llama".to_owned(),
            tokens: texts.iter().map(|text| (*text).to_owned()).collect(),
            token_types: vec![3; texts.len()],
            scores: vec![0.0; texts.len()],
            ..TokenizerConfig::default()
        };
        let tokenizer = Tokenizer::new(&config).unwrap();
        let ids = tokenizer.eos_token_ids().iter();
        ids.map(|&id| tokenizer.token_text(id).unwrap().to_owned()).collect()
    };
    assert_eq!(ends(&["<|user|>", "<|end|>", "<|im_end|>", "a"]), ["<|end|>", "<|im_end|>"]);
    assert_eq!(ends(&["[gMASK]", "<|user|>", "<|endoftext|>"]), ["<|user|>", "<|endoftext|>"]);
    assert_eq!(ends(&["<|return|>", "<|call|>", "<|end|>"]), ["<|return|>", "<|call|>"]);
}

#[test]
fn long_words_take_time_in_proportion() {
    let tokenizers = [
        byte_bpe("gpt-2"),
        byte_bpe("deepseek-llm"),
        byte_bpe("jais-2"),
        sentence_piece(),
        character_bpe(),
        word_piece(),
    ];
    for unit in ["a", " ", "\n", "h", "é", "😶‍🌫️", "<", "1", "! "] {
        let text = unit.repeat(1_000_000 / unit.len());
        for tokenizer in &tokenizers {
            let start = Instant::now();
            let ids = as_text(tokenizer, &text);
            let wall = start.elapsed();
            assert!(!ids.is_empty() || unit.trim().is_empty());
            assert!(wall < Duration::from_secs(20), "{unit:?} took {wall:?}");
        }
    }
}

#[test]
fn unusable_vocabularies_are_errors() {
    let refuse = |change: &dyn Fn(&mut TokenizerConfig)| {
        let mut config = TokenizerConfig {
            model: "llama".to_owned(),
            tokens: vec!["a".to_owned(), "b".to_owned()],
            scores: vec![0.0, 0.0],
            ..TokenizerConfig::default()
        };
        change(&mut config);
        Tokenizer::new(&config).err().expect("this must be refused")
    };
    assert!(matches!(refuse(&|c| c.model = "rwkv".to_owned()), TokenizerError::Model(_)));
    assert!(matches!(refuse(&|c| c.tokens.clear()), TokenizerError::NumTokens(0)));
    assert!(matches!(refuse(&|c| c.scores.truncate(1)), TokenizerError::Length { .. }));
    assert!(matches!(refuse(&|c| c.token_types = vec![1]), TokenizerError::Length { .. }));
    assert!(matches!(refuse(&|c| c.special_ids.eos = Some(2)), TokenizerError::SpecialId { .. }));
    assert!(matches!(refuse(&|c| c.model = "gpt2".to_owned()), TokenizerError::NoMerges));
    let bad_merge = |c: &mut TokenizerConfig| {
        c.model = "gpt2".to_owned();
        c.merges = vec!["ab".to_owned()];
    };
    assert!(matches!(refuse(&bad_merge), TokenizerError::Merge { .. }));
}

#[test]
fn stop_string_limits_are_named() {
    let limits = StopLimits { max_strings: 1, max_bytes: 3 };
    let refuse = |stops: &[&str]| {
        let stops = stops.iter().map(|stop| (*stop).to_owned()).collect();
        StopMatcher::new(stops, false, &limits).err().expect("this must be refused")
    };
    assert_eq!(refuse(&[""]), StopError::Empty);
    assert!(refuse(&["a", "b"]).to_string().contains("max_strings"));
    assert!(refuse(&["abcd"]).to_string().contains("max_bytes"));
}

fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(tokenizer, true);
    let mut pieces: Vec<String> = ids.iter().map(|&id| detokenizer.push(id).to_owned()).collect();
    pieces.push(detokenizer.finish().to_owned());
    pieces
}

/// What a [`StopMatcher`] must give for a whole text: the text before the match that ends first.
fn search_whole(text: &str, stops: &[String], include: bool) -> (String, Option<usize>) {
    for end in 0..=text.len() {
        let ending =
            (0..stops.len()).filter(|&i| text.as_bytes()[..end].ends_with(stops[i].as_bytes()));
        if let Some(found) = ending.max_by_key(|&i| (stops[i].len(), std::cmp::Reverse(i))) {
            let kept = if include { end } else { end - stops[found].len() };
            return (text[..kept].to_owned(), Some(found));
        }
    }
    (text.to_owned(), None)
}

fn any_text() -> impl Strategy<Value = String> {
    let parts = prop_oneof![
        "[a-z hel]{0,8}",
        "\\PC{0,4}",
        Just("😶‍🌫️👩‍👩‍👧".to_owned()),
        Just("  \n\t ".to_owned()),
        Just("e\u{301}<think><|im_end|><s>".to_owned()),
    ];
    prop::collection::vec(parts, 0..6).prop_map(|parts| parts.concat().replace('▁', "_"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn text_survives_tokens(text in any_text()) {
        for tokenizer in [byte_bpe("gpt-2"), byte_bpe("gpt-4o"), sentence_piece(), character_bpe()] {
            let ids = as_text(&tokenizer, &text);
            prop_assert!(ids.iter().all(|&id| !tokenizer.is_special(id)));
            prop_assert_eq!(Detokenizer::decode(&tokenizer, &ids, true), text.clone());
            prop_assert_eq!(stream(&tokenizer, &ids).concat(), text.clone());
        }
    }

    #[test]
    fn any_bytes_stream_as_they_decode_at_once(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let tokenizer = byte_bpe("gpt-2");
        let ids: Vec<u32> = bytes.iter().map(|&byte| 4 + u32::from(byte)).collect();
        prop_assert_eq!(stream(&tokenizer, &ids).concat(), String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn stop_strings_are_found_however_text_is_cut(
        text in "[abc\u{e9}]{0,24}",
        stops in prop::collection::vec("[abc\u{e9}]{1,4}", 0..4),
        sizes in prop::collection::vec(1usize..5, 30),
        include in any::<bool>(),
    ) {
        let (expected, matched) = search_whole(&text, &stops, include);
        let mut matcher = StopMatcher::new(stops, include, &StopLimits::default()).unwrap();
        let mut out = String::new();
        let mut rest: Vec<char> = text.chars().rev().collect();
        for size in sizes {
            let piece: String = (0..size).filter_map(|_| rest.pop()).collect();
            out.push_str(matcher.push(&piece).text);
            prop_assert!(expected.starts_with(&out), "{out} was sent, {expected} is right");
        }
        out.push_str(matcher.finish());
        prop_assert_eq!(matcher.matched(), matched);
        prop_assert_eq!(out, expected);
    }
}
