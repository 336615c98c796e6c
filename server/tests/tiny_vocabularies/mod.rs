//! Vocabularies small enough to check by hand, one of each kind.

use std::sync::Arc;

use quire_server::text::{SpecialIds, Tokenizer, TokenizerConfig};

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

fn add(config: &mut TokenizerConfig, token_type: i32, texts: &[&str]) {
    for text in texts {
        config.tokens.push((*text).to_owned());
        config.token_types.push(token_type);
    }
}

/// Ids 0 to 3 are special, 4 to 259 the bytes in order, then the results of the merges.
pub(crate) fn byte_bpe(pre: &str) -> Arc<Tokenizer> {
    let mut config = TokenizerConfig {
        model: "gpt2".to_owned(),
        pre: Some(pre.to_owned()),
        special_ids: SpecialIds { bos: Some(0), eos: Some(2), ..SpecialIds::default() },
        add_bos: Some(false),
        ..TokenizerConfig::default()
    };
    add(&mut config, CONTROL, &["<|endoftext|>", "<|im_start|>", "<|im_end|>"]);
    add(&mut config, USER_DEFINED, &["<think>"]);
    let mut next = 256;
    for byte in 0..=255u8 {
        let is_printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if is_printable { u32::from(byte) } else { next };
        next += u32::from(!is_printable);
        add(&mut config, NORMAL, &[&char::from_u32(code).expect("a character").to_string()]);
    }
    for merge in ["l l", "h e", "ll o", "he llo", "Ġ he", "a a", "aa aa", "< |", "â Ģ"] {
        config.merges.push(merge.to_owned());
        add(&mut config, NORMAL, &[&merge.replace(' ', "")]);
    }
    Arc::new(Tokenizer::new(&config).expect("a whole vocabulary"))
}

/// Ids 0 to 2 are special, 3 to 258 the byte tokens, then the pieces.
pub(crate) fn sentence_piece() -> Arc<Tokenizer> {
    let mut config = TokenizerConfig {
        model: "llama".to_owned(),
        special_ids: SpecialIds {
            bos: Some(1),
            eos: Some(2),
            unk: Some(0),
            ..SpecialIds::default()
        },
        ..TokenizerConfig::default()
    };
    add(&mut config, UNKNOWN, &["<unk>"]);
    add(&mut config, CONTROL, &["<s>", "</s>"]);
    for byte in 0..=255u8 {
        add(&mut config, BYTE, &[&format!("<0x{byte:02X}>")]);
    }
    // The first is merged first. "s>" would lead to the control token "<s>".
    let pieces = ["he", "ll", "llo", "▁", "▁he", "▁hello", "s>", "h", "e", "l", "o", "<", "s", ">"];
    add(&mut config, NORMAL, &pieces);
    config.scores = (0..config.tokens.len()).map(|id| -(id as f32)).collect();
    Arc::new(Tokenizer::new(&config).expect("a whole vocabulary"))
}

pub(crate) fn word_piece() -> Arc<Tokenizer> {
    let mut config = TokenizerConfig {
        model: "bert".to_owned(),
        special_ids: SpecialIds {
            cls: Some(1),
            sep: Some(2),
            unk: Some(0),
            ..SpecialIds::default()
        },
        ..TokenizerConfig::default()
    };
    add(&mut config, CONTROL, &["[UNK]", "[CLS]", "[SEP]"]);
    add(&mut config, NORMAL, &["▁hello", "▁un", "able", "▁,", "▁cafe", "▁中", "a"]);
    Arc::new(Tokenizer::new(&config).expect("a whole vocabulary"))
}

/// Characters with `▁` for the space, as Gemma 4: ids 0 to 2 special, 3 to 258 bytes.
pub(crate) fn character_bpe() -> Arc<Tokenizer> {
    let mut config = TokenizerConfig {
        model: "gemma4".to_owned(),
        special_ids: SpecialIds {
            bos: Some(1),
            eos: Some(2),
            unk: Some(0),
            ..SpecialIds::default()
        },
        ..TokenizerConfig::default()
    };
    add(&mut config, UNKNOWN, &["<unk>"]);
    add(&mut config, CONTROL, &["<bos>", "<eos>"]);
    for byte in 0..=255u8 {
        add(&mut config, BYTE, &[&format!("<0x{byte:02X}>")]);
    }
    add(&mut config, NORMAL, &["▁", "h", "i", "hi", "▁hi", "\n", "\n\n"]);
    config.merges = ["h i", "▁ hi"].map(str::to_owned).to_vec();
    Arc::new(Tokenizer::new(&config).expect("a whole vocabulary"))
}
