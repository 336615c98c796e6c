//! What a model file says about its tokenizer, as plain data.

use quire_engine::weights::gguf::{GgufError, Metadata};

use super::pre_tokenizer_names::PreTokenizerSpec;

/// The `tokenizer.*` metadata of a model, before anything is built from it.
///
/// `None` and empty lists mean that the file does not say; [`super::Tokenizer::new`] then takes the
/// default of the tokenizer kind.
#[derive(Clone, Debug, Default)]
pub struct TokenizerConfig {
    /// `llama` (SentencePiece), `gpt2` (byte BPE), `gemma4` (character BPE), `bert` (WordPiece) or
    /// `t5` (Unigram).
    pub model: String,
    /// Name of the pre-tokenizer of a byte BPE.
    pub pre: Option<String>,
    /// The pre-tokenizer itself, where no name stands for it.
    pub pre_tokenizer: Option<PreTokenizerSpec>,
    /// Text is brought into Unicode's composed form (NFC) first.
    pub composes: bool,
    /// `general.name`; Phi-3 files are known by it alone.
    pub model_name: String,
    pub tokens: Vec<String>,
    /// 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    pub scores: Vec<f32>,
    /// `left right` pairs, best first.
    pub merges: Vec<String>,
    pub special_ids: SpecialIds,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_sep: Option<bool>,
    pub add_space_prefix: Option<bool>,
    /// More exactly than `add_space_prefix`, which it overrides.
    pub space_prefix: Option<SpacePrefix>,
    /// Before every text; `None`: BOS if `add_bos`.
    pub prefix_tokens: Option<Vec<u32>>,
    /// Behind every text; `None`: EOS or SEP if `add_eos` or `add_sep`.
    pub suffix_tokens: Option<Vec<u32>>,
    /// Tokens that end a generation, beside those known by their role or text.
    pub end_tokens: Vec<u32>,
    /// Special tokens that swallow the white space before them.
    pub strips_left: Vec<u32>,
    /// Special tokens that swallow the white space behind them.
    pub strips_right: Vec<u32>,
    /// Of a Unigram model: SentencePiece's table that normalizes characters (`precompiled_charsmap`).
    pub character_table: Vec<u8>,
    /// Runs of white space are one space, and none is at the ends.
    pub collapses_spaces: bool,
    pub lowercase: Option<bool>,
    pub strip_accents: Option<bool>,
}

/// Which texts get a space put before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpacePrefix {
    Never,
    /// The first one, and each behind a special token.
    Each,
    /// As `Each`, but for texts that begin with a space.
    EachUnspaced,
    /// A text with nothing before it, unless it begins with a space.
    FirstUnspaced,
}

impl SpacePrefix {
    /// Whether `text` gets one.
    pub(super) fn applies(self, text: &str, follows_token: bool, is_first: bool) -> bool {
        let is_spaced = text.starts_with([' ', '\u{2581}']);
        match self {
            Self::Never => false,
            Self::Each => follows_token,
            Self::EachUnspaced => follows_token && !is_spaced,
            Self::FirstUnspaced => is_first && !is_spaced,
        }
    }
}

/// Ids of the tokens with a role of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// End of message: the model waits for a tool.
    pub eom: Option<u32>,
    pub unk: Option<u32>,
    pub sep: Option<u32>,
    pub pad: Option<u32>,
    pub mask: Option<u32>,
    pub cls: Option<u32>,
}

impl TokenizerConfig {
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, GgufError> {
        let strings = |key: &str| -> Result<Vec<String>, GgufError> {
            let array = metadata.strings(key)?;
            Ok(array.map(|a| a.iter().map(str::to_owned).collect()).unwrap_or_default())
        };
        let text = |key: &str| -> Result<Option<String>, GgufError> {
            Ok(metadata.string(key)?.map(str::to_owned))
        };
        Ok(Self {
            model: metadata.require_string("tokenizer.ggml.model")?.to_owned(),
            pre: text("tokenizer.ggml.pre")?,
            model_name: text("general.name")?.unwrap_or_default(),
            tokens: strings("tokenizer.ggml.tokens")?,
            token_types: metadata.i32s("tokenizer.ggml.token_type")?.unwrap_or_default(),
            scores: metadata.f32s("tokenizer.ggml.scores")?.unwrap_or_default(),
            merges: strings("tokenizer.ggml.merges")?,
            special_ids: SpecialIds::from_gguf(metadata)?,
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
            add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?,
            add_sep: metadata.bool("tokenizer.ggml.add_sep_token")?,
            add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?,
            // Some writers have its bytes with a sign.
            character_table: metadata
                .i32s("tokenizer.ggml.precompiled_charsmap")?
                .map(|bytes| bytes.into_iter().map(|byte| byte as u8).collect())
                .unwrap_or_default(),
            collapses_spaces: metadata
                .bool("tokenizer.ggml.remove_extra_whitespaces")?
                .unwrap_or(false),
            lowercase: metadata.bool("tokenizer.ggml.normalizer.lowercase")?,
            strip_accents: metadata.bool("tokenizer.ggml.normalizer.strip_accents")?,
            ..Self::default()
        })
    }
}

impl SpecialIds {
    fn from_gguf(metadata: &Metadata) -> Result<Self, GgufError> {
        let id = |name: &str| metadata.u32(&format!("tokenizer.ggml.{name}_token_id"));
        Ok(Self {
            bos: id("bos")?,
            eos: id("eos")?,
            eot: id("eot")?,
            eom: id("eom")?,
            unk: id("unknown")?,
            // The key was misspelt when the format was made.
            sep: id("seperator")?.or(id("separator")?),
            pad: id("padding")?,
            mask: id("mask")?,
            cls: id("cls")?,
        })
    }
}
