//! tokenizer.json to a `TokenizerConfig`, where that can be exact; an error elsewhere.

use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::Value;

use super::pieces;
use super::pre_tokenizer::{Normalizer, Splits};
use crate::text::tokenizer::{
    PreTokenizerSpec, SpacePrefix, SpecialIds, TokenizerConfig, byte_token_value,
};

/// One more than the largest id: files of no sense must not take all memory.
pub(super) const MAX_TOKENS: usize = 1 << 24;

/// As `tokenizer.ggml.token_type` has them.
pub(super) const NORMAL: i32 = 1;
pub(super) const UNKNOWN: i32 = 2;
pub(super) const CONTROL: i32 = 3;
pub(super) const USER_DEFINED: i32 = 4;
pub(super) const UNUSED: i32 = 5;
const BYTE: i32 = 6;

#[derive(Deserialize)]
pub(super) struct TokenizerJson {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    pub(super) model: Value,
}

#[derive(Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    pub(super) special: bool,
}

#[derive(Deserialize)]
struct BpeJson {
    vocab: FxHashMap<String, u32>,
    merges: Vec<Merge>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// `"left right"`, or of newer files `["left", "right"]`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

/// The tokenizer of a parsed tokenizer.json; which tokens begin and end texts is left to other files.
pub(super) fn read(json: Value) -> Result<TokenizerConfig, String> {
    let json: TokenizerJson = serde_json::from_value(json).map_err(|error| error.to_string())?;
    let mut config = match json.model["type"].as_str() {
        Some("WordPiece") => pieces::word_piece(&json)?,
        Some("Unigram") => pieces::unigram(&json)?,
        _ => return byte_pairs(json),
    };
    put_around(&mut config, &json.post_processor)?;
    Ok(config)
}

fn byte_pairs(json: TokenizerJson) -> Result<TokenizerConfig, String> {
    let bpe = bpe(json.model)?;
    let normalizer = Normalizer::read(&json.normalizer)?;
    let splits = Splits::read(&json.pre_tokenizer, normalizer.replaces_spaces)?;
    let mut config = TokenizerConfig { model: "gpt2".to_owned(), ..TokenizerConfig::default() };
    config.composes = normalizer.composes;
    config.space_prefix = Some(space_prefix(&bpe, &normalizer, &splits)?);
    config.pre_tokenizer = Some(PreTokenizerSpec {
        stages: splits.stages,
        ignore_merges: bpe.ignore_merges,
        over_characters: !splits.is_byte_level,
        ..PreTokenizerSpec::default()
    });
    let has_prefix = normalizer.prepends_space;
    set_tokens(&mut config, bpe, json.added_tokens, has_prefix)?;
    put_around(&mut config, &json.post_processor)?;
    Ok(config)
}

/// What the post-processor puts before and behind a text.
fn put_around(config: &mut TokenizerConfig, processor: &Value) -> Result<(), String> {
    let (prefix, suffix) = around(processor)?;
    let is_token = |id: &u32| (*id as usize) < config.tokens.len();
    if !prefix.iter().chain(&suffix).all(is_token) {
        return Err("post_processor: an id is no token".to_owned());
    }
    (config.prefix_tokens, config.suffix_tokens) = (Some(prefix), Some(suffix));
    Ok(())
}

/// The model, of a kind that is supported.
fn bpe(model: Value) -> Result<BpeJson, String> {
    let kind = model["type"].as_str().unwrap_or("BPE").to_owned();
    if kind != "BPE" {
        return Err(format!(
            "model: {kind:?} tokenizers are not supported; BPE, WordPiece and Unigram ones are"
        ));
    }
    let bpe: BpeJson = serde_json::from_value(model).map_err(|error| format!("model: {error}"))?;
    let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let unsupported = [
        ("dropout", bpe.dropout.is_some_and(|dropout| dropout != 0.0)),
        ("continuing_subword_prefix", is_set(&bpe.continuing_subword_prefix)),
        ("end_of_word_suffix", is_set(&bpe.end_of_word_suffix)),
    ];
    match unsupported.iter().find(|(_, is_used)| *is_used) {
        Some((name, _)) => Err(format!("model: {name} is not supported")),
        None => Ok(bpe),
    }
}

/// Which texts get a space in front. Bytes know none; of characters, every one that is not in the vocabulary must
/// have its bytes there.
fn space_prefix(
    bpe: &BpeJson,
    normalizer: &Normalizer,
    splits: &Splits,
) -> Result<SpacePrefix, String> {
    if splits.is_byte_level {
        return match normalizer.replaces_spaces || normalizer.prepends_space {
            true => {
                Err("normalizer: changes spaces before ByteLevel, which is not supported".into())
            }
            false => Ok(SpacePrefix::Never),
        };
    }
    let has_bytes = (0..=255).all(|byte| bpe.vocab.contains_key(&format!("<0x{byte:02X}>")));
    if !bpe.byte_fallback || !has_bytes {
        return Err("model: BPE over characters without byte_fallback is not supported".to_owned());
    }
    if !normalizer.replaces_spaces && splits.metaspace.is_none() {
        return Err("BPE over characters that keeps spaces is not supported".to_owned());
    }
    match (normalizer.prepends_space, splits.metaspace) {
        (false, None) => Ok(SpacePrefix::Never),
        (false, Some(prefix)) => Ok(prefix),
        (true, None) => Ok(SpacePrefix::Each),
        (true, Some(_)) => Err("both normalizer and pre_tokenizer prepend a space".to_owned()),
    }
}

fn set_tokens(
    config: &mut TokenizerConfig,
    bpe: BpeJson,
    added: Vec<AddedToken>,
    has_prefix: bool,
) -> Result<(), String> {
    let ids = bpe.vocab.values().copied().chain(added.iter().map(|token| token.id));
    let num_tokens = ids.max().map_or(0, |largest| largest as usize + 1);
    if num_tokens > MAX_TOKENS {
        return Err(format!("the largest id is {}, above {MAX_TOKENS}", num_tokens - 1));
    }
    let unk = bpe.unk_token.as_ref().and_then(|text| bpe.vocab.get(text)).copied();
    config.special_ids = SpecialIds { unk, ..SpecialIds::default() };
    let mut tokens: Vec<Option<String>> = vec![None; num_tokens];
    config.token_types = vec![UNUSED; num_tokens];
    for (text, id) in bpe.vocab {
        let is_byte = bpe.byte_fallback && byte_token_value(&text).is_some();
        let kind = if Some(id) == unk {
            UNKNOWN
        } else if is_byte {
            BYTE
        } else {
            NORMAL
        };
        config.token_types[id as usize] = kind;
        if let Some(other) = tokens[id as usize].replace(text) {
            return Err(format!(
                "model.vocab: the id {id} is that of {other:?} and of another token"
            ));
        }
    }
    for token in added {
        let AddedToken { id, content, single_word, normalized, .. } = token;
        let error = |problem: &str| Err(format!("added token {id} ({content:?}): {problem}"));
        if single_word {
            return error("single_word is not supported");
        }
        if normalized && has_prefix && !token.special {
            return error("normalized is not supported where the normalizer prepends a space");
        }
        let known = tokens[id as usize].get_or_insert_with(|| content.clone());
        if *known != content {
            return error(&format!("the vocabulary has {known:?} under this id"));
        }
        config.token_types[id as usize] = if token.special { CONTROL } else { USER_DEFINED };
        if token.lstrip {
            config.strips_left.push(id);
        }
        if token.rstrip {
            config.strips_right.push(id);
        }
    }
    let named = tokens.into_iter().enumerate();
    config.tokens = named.map(|(id, text)| text.unwrap_or_else(|| format!("[PAD{id}]"))).collect();
    config.merges = bpe.merges.into_iter().map(joined).collect::<Result<_, _>>()?;
    Ok(())
}

fn joined(merge: Merge) -> Result<String, String> {
    match merge {
        Merge::Joined(text) => Ok(text),
        Merge::Pair(left, right) if left.contains(' ') || right.contains(' ') => {
            Err(format!("model.merges: {left:?} and {right:?}: spaces in merges are not supported"))
        }
        Merge::Pair(left, right) => Ok(format!("{left} {right}")),
    }
}

/// The ids before and behind a text.
fn around(processor: &Value) -> Result<(Vec<u32>, Vec<u32>), String> {
    match processor["type"].as_str() {
        None if processor.is_null() => Ok((Vec::new(), Vec::new())),
        Some("ByteLevel") => Ok((Vec::new(), Vec::new())),
        Some("Sequence") => {
            let (mut prefix, mut suffix) = (Vec::new(), Vec::new());
            for inner in processor["processors"].as_array().into_iter().flatten() {
                let (before, behind) = around(inner)?;
                prefix.splice(..0, before);
                suffix.extend(behind);
            }
            Ok((prefix, suffix))
        }
        Some("TemplateProcessing") => template(processor),
        Some("BertProcessing" | "RobertaProcessing") => {
            let id = |key: &str| {
                let id = processor[key][1].as_u64().and_then(|id| u32::try_from(id).ok());
                id.ok_or_else(|| format!("post_processor: {key} has no id"))
            };
            Ok((vec![id("cls")?], vec![id("sep")?]))
        }
        kind => {
            let kind = kind.unwrap_or("without a type");
            Err(format!("post_processor: {kind:?} is not supported"))
        }
    }
}

fn template(processor: &Value) -> Result<(Vec<u32>, Vec<u32>), String> {
    let (mut prefix, mut suffix, mut is_behind) = (Vec::new(), Vec::new(), false);
    for piece in processor["single"].as_array().into_iter().flatten() {
        if piece.get("Sequence").is_some() {
            if is_behind {
                return Err("post_processor: a template with the text twice".to_owned());
            }
            is_behind = true;
            continue;
        }
        let name = piece["SpecialToken"]["id"].as_str().unwrap_or_default();
        let ids: Option<Vec<u32>> = processor["special_tokens"][name]["ids"]
            .as_array()
            .and_then(|ids| ids.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect());
        let ids = ids.ok_or_else(|| format!("post_processor: {name:?} has no ids"))?;
        if is_behind { suffix.extend(ids) } else { prefix.extend(ids) }
    }
    match is_behind {
        true => Ok((prefix, suffix)),
        false => Err("post_processor: a template without the text".to_owned()),
    }
}
