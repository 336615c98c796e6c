//! The tokenizers of encoders in tokenizer.json: WordPiece and Unigram, where they can be read exactly.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::tokenizer::{
    AddedToken, CONTROL, MAX_TOKENS, NORMAL, TokenizerJson, UNKNOWN, UNUSED, USER_DEFINED,
};
use crate::text::tokenizer::{SpacePrefix, SpecialIds, TokenizerConfig};

const BLOCK: &str = "\u{2581}";
/// BERT gives up on longer words.
const MAX_WORD_CHARS: u64 = 100;

/// WordPiece as BERT has it.
pub(super) fn word_piece(json: &TokenizerJson) -> Result<TokenizerConfig, String> {
    let model = &json.model;
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or("##");
    let max_chars = model["max_input_chars_per_word"].as_u64().unwrap_or(MAX_WORD_CHARS);
    if max_chars != MAX_WORD_CHARS {
        return Err(format!("model: max_input_chars_per_word of {max_chars} is not supported"));
    }
    let normalizer = &json.normalizer;
    let (kind, words) = (&normalizer["type"], &json.pre_tokenizer["type"]);
    let keeps = |key: &str| normalizer[key].as_bool() == Some(false);
    if kind != "BertNormalizer" || keeps("clean_text") || keeps("handle_chinese_chars") {
        return Err("normalizer: beside WordPiece only BERT's is supported, with clean_text and \
                    handle_chinese_chars"
            .to_owned());
    }
    if words != "BertPreTokenizer" {
        return Err(format!("pre_tokenizer: {words} beside WordPiece is not supported"));
    }
    let vocabulary = model["vocab"].as_object().ok_or("model.vocab is no object")?;
    let mut tokens = Tokens::default();
    let unk = model["unk_token"].as_str().unwrap_or("[UNK]");
    for (text, id) in vocabulary {
        let id = id.as_u64().ok_or_else(|| format!("model.vocab: {text:?} has no id"))?;
        // A word's first piece begins with U+2581 here, and the others with nothing; names of special tokens stay.
        let spelt = match text.strip_prefix(prefix) {
            Some(rest) if !rest.is_empty() => rest.to_owned(),
            _ if text.starts_with('[') && text.ends_with(']') => text.clone(),
            _ => format!("{BLOCK}{text}"),
        };
        let kind = if text == unk { UNKNOWN } else { NORMAL };
        tokens.put(id, spelt, kind, 0.0)?;
    }
    tokens.add(&json.added_tokens)?;
    let mut config = TokenizerConfig {
        model: "bert".to_owned(),
        lowercase: Some(normalizer["lowercase"].as_bool().unwrap_or(true)),
        strip_accents: normalizer["strip_accents"].as_bool(),
        ..tokens.config()
    };
    let id_of = |text: &str| vocabulary.get(text)?.as_u64().map(|id| id as u32);
    config.special_ids = SpecialIds {
        unk: id_of(unk),
        cls: id_of("[CLS]"),
        sep: id_of("[SEP]"),
        ..SpecialIds::default()
    };
    Ok(config)
}

/// Unigram as XLM-RoBERTa has it.
pub(super) fn unigram(json: &TokenizerJson) -> Result<TokenizerConfig, String> {
    let model = &json.model;
    if model["byte_fallback"] == true {
        return Err("model: Unigram with byte_fallback is not supported".to_owned());
    }
    let vocabulary = model["vocab"].as_array().ok_or("model.vocab is no list")?;
    let unk = model["unk_id"].as_u64().ok_or("model.unk_id is missing")?;
    let mut tokens = Tokens::default();
    for (id, piece) in vocabulary.iter().enumerate() {
        let (text, score) = (piece[0].as_str(), piece[1].as_f64());
        let (Some(text), Some(score)) = (text, score) else {
            return Err(format!("model.vocab: entry {id} is no text with a score"));
        };
        let kind = if id as u64 == unk { UNKNOWN } else { NORMAL };
        tokens.put(id as u64, text.to_owned(), kind, score as f32)?;
    }
    tokens.add(&json.added_tokens)?;
    let mut clean_up = CleanUp::default();
    clean_up.add_normalizer(&json.normalizer)?;
    clean_up.add_words(&json.pre_tokenizer)?;
    let mut config = TokenizerConfig {
        model: "t5".to_owned(),
        character_table: clean_up.table,
        collapses_spaces: clean_up.collapses,
        space_prefix: Some(clean_up.prefix),
        ..tokens.config()
    };
    config.special_ids = SpecialIds { unk: Some(unk as u32), ..SpecialIds::default() };
    Ok(config)
}

/// Tokens by their ids.
#[derive(Default)]
struct Tokens {
    /// Text, kind and score.
    entries: Vec<Option<(String, i32, f32)>>,
    strips_left: Vec<u32>,
    strips_right: Vec<u32>,
}

impl Tokens {
    fn put(&mut self, id: u64, text: String, kind: i32, score: f32) -> Result<(), String> {
        let place = usize::try_from(id).ok().filter(|&id| id < MAX_TOKENS);
        let place = place.ok_or_else(|| format!("the id {id} is above {MAX_TOKENS}"))?;
        if self.entries.len() <= place {
            self.entries.resize(place + 1, None);
        }
        if let Some((other, ..)) = self.entries[place].replace((text, kind, score)) {
            return Err(format!(
                "model.vocab: the id {id} is that of {other:?} and of another token"
            ));
        }
        Ok(())
    }

    fn add(&mut self, added: &[AddedToken]) -> Result<(), String> {
        for token in added {
            let place = token.id as usize;
            if place >= self.entries.len() {
                self.put(token.id.into(), token.content.clone(), NORMAL, 0.0)?;
            }
            let known = self.entries[place].as_ref();
            let is_unknown = known.is_some_and(|(_, kind, _)| *kind == UNKNOWN);
            let kind = match (is_unknown, token.special) {
                (true, _) => UNKNOWN,
                (false, true) => CONTROL,
                (false, false) => USER_DEFINED,
            };
            let score = known.map_or(0.0, |(.., score)| *score);
            self.entries[place] = Some((token.content.clone(), kind, score));
            if token.lstrip {
                self.strips_left.push(token.id);
            }
            if token.rstrip {
                self.strips_right.push(token.id);
            }
        }
        Ok(())
    }

    fn config(self) -> TokenizerConfig {
        let mut config = TokenizerConfig {
            strips_left: self.strips_left,
            strips_right: self.strips_right,
            ..TokenizerConfig::default()
        };
        for (id, entry) in self.entries.into_iter().enumerate() {
            let (text, kind, score) = entry.unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED, 0.0));
            config.tokens.push(text);
            config.token_types.push(kind);
            config.scores.push(score);
        }
        config
    }
}

/// What a Unigram tokenizer does to a text before it is segmented.
struct CleanUp {
    table: Vec<u8>,
    collapses: bool,
    prefix: SpacePrefix,
}

impl Default for CleanUp {
    fn default() -> Self {
        Self { table: Vec::new(), collapses: false, prefix: SpacePrefix::Never }
    }
}

impl CleanUp {
    fn add_normalizer(&mut self, value: &Value) -> Result<(), String> {
        match value["type"].as_str() {
            None if value.is_null() => Ok(()),
            Some("Sequence") => {
                let inner = value["normalizers"].as_array().into_iter().flatten();
                inner.into_iter().try_for_each(|value| self.add_normalizer(value))
            }
            Some("Precompiled") => {
                let text = value["precompiled_charsmap"].as_str().unwrap_or_default();
                let table = BASE64_STANDARD.decode(text);
                self.table = table.map_err(|error| format!("normalizer: Precompiled: {error}"))?;
                Ok(())
            }
            // Both ends are trimmed by the pre-tokenizer that follows.
            Some("Strip") => Ok(()),
            Some("Replace") if value["pattern"]["Regex"] == " {2,}" => {
                let by = &value["content"];
                self.collapses |= by == " " || by == BLOCK;
                if self.collapses { Ok(()) } else { Err(format!("normalizer: Replace by {by}")) }
            }
            kind => {
                let kind = kind.unwrap_or("without a type");
                Err(format!("normalizer: {kind:?} beside Unigram is not supported"))
            }
        }
    }

    fn add_words(&mut self, value: &Value) -> Result<(), String> {
        match value["type"].as_str() {
            Some("Sequence") => {
                let inner = value["pretokenizers"].as_array().into_iter().flatten();
                inner.into_iter().try_for_each(|value| self.add_words(value))
            }
            // Words in a row have one space between them, whatever was there.
            Some("WhitespaceSplit") => {
                self.collapses = true;
                Ok(())
            }
            Some("Metaspace") if value["replacement"] == BLOCK => {
                let scheme = value["prepend_scheme"].as_str();
                let adds = value["add_prefix_space"].as_bool().unwrap_or(true);
                self.prefix = match scheme {
                    Some("always") => SpacePrefix::Each,
                    Some("first") => SpacePrefix::FirstUnspaced,
                    None if adds => SpacePrefix::Each,
                    Some("never") | None => SpacePrefix::Never,
                    Some(other) => return Err(format!("pre_tokenizer: prepend_scheme {other:?}")),
                };
                Ok(())
            }
            kind => {
                let kind = kind.unwrap_or("without a type");
                Err(format!("pre_tokenizer: {kind:?} beside Unigram is not supported"))
            }
        }
    }
}
