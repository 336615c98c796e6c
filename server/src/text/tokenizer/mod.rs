//! Text to tokens and back, for the tokenizer kinds that GGUF files carry.

mod bpe;
mod character_table;
mod config;
mod end_tokens;
mod placeholder;
mod pre_tokenizer;
mod pre_tokenizer_names;
mod sentence_piece;
mod special;
mod unigram;
mod vocabulary;
mod word_piece;

use std::borrow::Cow;
use std::sync::Arc;

use quire_engine::weights::gguf::{GgufError, Metadata};

use super::guard::guarded;
use bpe::{Bpe, BpeScratch};
use pre_tokenizer::PreTokenizer;
use sentence_piece::SentencePiece;
use special::{Piece, SpecialSplitter, Strips};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use unigram::Unigram;
use vocabulary::{BYTE_CHARACTERS, Spelling, TokenKind, Vocabulary};
use word_piece::WordPiece;

pub use config::{SpacePrefix, SpecialIds, TokenizerConfig};
pub use pre_tokenizer::Spaces;
pub(super) use pre_tokenizer_names::GPT2;
pub use pre_tokenizer_names::{PreTokenizerSpec, StageSpec};
pub use special::{ControlTexts, SpecialTokens};
pub(super) use vocabulary::byte_token_value;

/// A model's tokenizer. Reading it needs no lock.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    model: Model,
    special: SpecialSplitter,
    special_ids: SpecialIds,
    end_tokens: Vec<u32>,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    space_prefix: SpacePrefix,
    composes: bool,
}

enum Model {
    ByteBpe { bpe: Bpe, pre_tokenizer: PreTokenizer, ignore_merges: bool },
    CharacterBpe { bpe: Bpe, pre_tokenizer: PreTokenizer, whole: WholeWords },
    SentencePiece(SentencePiece),
    Unigram(Unigram),
    WordPiece(WordPiece),
}

/// Which words are looked up before they are merged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WholeWords {
    None,
    Newlines,
    All,
}

/// Words, numbers, spaces, marks and signs of several scripts.
const PROBE: &str =
    " Hello,\tworld!\n\n  x = 12345.6;  n\u{303}é Ünï 你好 日本語 नमस्ते 🙂👍🏽 \u{0}\u{200D}";

/// The file describes no tokenizer that can be built.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error(transparent)]
    Metadata(#[from] GgufError),
    #[error("tokenizer.ggml.model is {0:?}; supported are llama, gpt2, gemma4, bert and t5")]
    Model(String),
    #[error("tokenizer.ggml.tokens has {0} entries")]
    NumTokens(usize),
    #[error("{key} has {found} entries for {expected} tokens")]
    Length { key: &'static str, found: usize, expected: usize },
    #[error("tokenizer.ggml.merges[{rank}] is {text:?}, which is no pair")]
    Merge { rank: u32, text: String },
    #[error("tokenizer.ggml.merges is missing")]
    NoMerges,
    #[error("tokenizer.ggml.{key}_token_id is {id}, but there are {num_tokens} tokens")]
    SpecialId { key: &'static str, id: u32, num_tokens: usize },
    #[error("the tokenizer has no unknown token")]
    NoUnknown,
    #[error("the normalizer's table of characters is damaged")]
    CharacterTable,
    #[error("pre-tokenizer: {0}")]
    PreTokenizer(String),
    #[error("special tokens: {0}")]
    SpecialTokens(String),
    #[error("the tokenizer {0}")]
    Panic(String),
}

impl Tokenizer {
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, TokenizerError> {
        Self::new(&TokenizerConfig::from_gguf(metadata)?)
    }

    /// A tokenizer that at least a short text does not break.
    pub fn new(config: &TokenizerConfig) -> Result<Self, TokenizerError> {
        let build = || {
            let tokenizer = Self::build(config)?;
            tokenizer.encode(PROBE, SpecialTokens::Parse);
            Ok(tokenizer)
        };
        guarded(build).unwrap_or_else(|panic| Err(TokenizerError::Panic(panic)))
    }

    fn build(config: &TokenizerConfig) -> Result<Self, TokenizerError> {
        let spec = PreSpec::of(config);
        let spelling = match (&*config.model, &spec) {
            ("gpt2", PreSpec(Some(spec))) if !spec.over_characters => Spelling::ByteCharacters,
            _ => Spelling::LowerBlocks,
        };
        let mut vocabulary = Vocabulary::new(config, spelling)?;
        let special_ids = known_special_ids(config, vocabulary.len())?;
        for id in [special_ids.bos, special_ids.eos, special_ids.eot, special_ids.eom] {
            // A file without token types must still keep these out of users' hands.
            if let Some(id) = id.filter(|_| config.token_types.is_empty()) {
                vocabulary.set_control(id);
            }
        }
        let add_bos = config.add_bos.unwrap_or(spec.default_add_bos(config));
        let add_bos = add_bos || spec.0.as_ref().is_some_and(|s| s.over_characters && s.add_bos);
        let model = Model::new(config, spec, &vocabulary, &special_ids)?;
        let is_word_piece = matches!(model, Model::WordPiece(_));
        let end = if config.add_sep.unwrap_or(is_word_piece) {
            special_ids.sep.or(special_ids.eos)
        } else {
            special_ids.eos.filter(|_| config.add_eos.unwrap_or(false))
        };
        let bos = special_ids.bos.filter(|_| add_bos);
        let given = |tokens: &Option<Vec<u32>>, default: Option<u32>| {
            tokens.clone().unwrap_or_else(|| default.into_iter().collect())
        };
        let strips = Strips {
            left: config.strips_left.clone(),
            right: tokens_that_strip_right(config, &vocabulary),
        };
        Ok(Self {
            end_tokens: end_tokens::find(&vocabulary, &special_ids, &config.end_tokens),
            special: SpecialSplitter::new(&vocabulary, strips)?,
            prefix: given(&config.prefix_tokens, bos),
            suffix: given(&config.suffix_tokens, end),
            space_prefix: space_prefix(config, &model),
            composes: config.composes,
            vocabulary,
            model,
            special_ids,
        })
    }

    /// The tokens of `text`, without [`Self::prefix_tokens`] and [`Self::suffix_tokens`].
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Vec<u32> {
        self.encode_with_barriers(text, special, &[])
    }

    /// As [`Self::encode`]; no control token spans a barrier (ascending byte offsets in `text`).
    /// Barriers change nothing else: ordinary text merges across them.
    pub fn encode_with_barriers(
        &self,
        text: &str,
        special: SpecialTokens,
        barriers: &[usize],
    ) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 3);
        let mut scratch = BpeScratch::default();
        let (mut follows_token, mut is_first) = (true, true);
        self.special.split(text, special, barriers, |piece| match piece {
            Piece::Token(id) => {
                out.push(id);
                (follows_token, is_first) = (true, false);
            }
            Piece::Text("") => {}
            Piece::Text(text) => {
                let text = self.composed(text);
                let has_space = self.space_prefix.applies(&text, follows_token, is_first);
                self.encode_ordinary(&text, has_space, &mut scratch, &mut out);
                (follows_token, is_first) = (false, false);
            }
        });
        out
    }

    /// What the model expects before a text: its BOS token, or nothing.
    pub fn prefix_tokens(&self) -> &[u32] {
        &self.prefix
    }

    /// What the model expects behind a text: its EOS or SEP token, or nothing.
    pub fn suffix_tokens(&self) -> &[u32] {
        &self.suffix
    }

    /// The bytes that `token` stands for in decoded text; none for control tokens and ids out of
    /// range. Token texts that begin a word begin with a space.
    pub fn token_bytes(&self, token: u32) -> &[u8] {
        if self.is_special(token) { &[] } else { self.vocabulary.bytes(token) }
    }

    /// As [`Self::token_bytes`], with the text of control tokens.
    pub fn token_bytes_with_special(&self, token: u32) -> &[u8] {
        self.vocabulary.bytes(token)
    }

    /// The token as the vocabulary spells it.
    pub fn token_text(&self, token: u32) -> Option<&str> {
        self.vocabulary.text(token)
    }

    /// The token that the vocabulary spells `text`.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.vocabulary.id_of(text)
    }

    /// Control and unknown tokens: never made from ordinary text.
    pub fn is_special(&self, token: u32) -> bool {
        self.vocabulary.kind(token).is_special()
    }

    pub fn special_ids(&self) -> &SpecialIds {
        &self.special_ids
    }

    /// The tokens that end a generation, in ascending order.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.end_tokens
    }

    /// Number of tokens; a model may have more logits than this.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// The texts of the control tokens, to find them in rendered templates.
    pub fn control_texts(&self) -> &Arc<ControlTexts> {
        self.special.control_texts()
    }

    /// Whether the first token of a text begins with a space that is not in the text.
    pub(super) fn adds_leading_space(&self) -> bool {
        self.space_prefix != SpacePrefix::Never || matches!(self.model, Model::WordPiece(_))
    }

    fn composed<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !self.composes || is_nfc_quick(text.chars()) == IsNormalized::Yes {
            return Cow::Borrowed(text);
        }
        Cow::Owned(text.nfc().collect())
    }

    fn encode_ordinary(
        &self,
        text: &str,
        has_space: bool,
        scratch: &mut BpeScratch,
        out: &mut Vec<u32>,
    ) {
        let with_blocks = || {
            let prefix = if has_space { "\u{2581}" } else { "" };
            prefix.to_owned() + &text.replace(' ', "\u{2581}")
        };
        match &self.model {
            Model::ByteBpe { bpe, pre_tokenizer, ignore_merges } => {
                let mut spelt = String::new();
                pre_tokenizer.split(text, |word| {
                    let whole = ignore_merges.then(|| self.whole_word(word, &mut spelt)).flatten();
                    match whole {
                        Some(id) => out.push(id),
                        None => bpe.encode_word(word, scratch, out),
                    }
                });
            }
            Model::CharacterBpe { bpe, pre_tokenizer, whole } => {
                pre_tokenizer.split(&with_blocks(), |word| {
                    let is_whole = match whole {
                        WholeWords::None => false,
                        WholeWords::Newlines => word.starts_with('\n'),
                        WholeWords::All => true,
                    };
                    match self.vocabulary.ordinary_id_of(word).filter(|_| is_whole) {
                        Some(id) => out.push(id),
                        None => bpe.encode_word(word, scratch, out),
                    }
                });
            }
            Model::SentencePiece(model) => model.encode(&with_blocks(), out),
            Model::Unigram(model) => model.encode(text, has_space, out),
            Model::WordPiece(model) => model.encode(&self.vocabulary, text, out),
        }
    }

    fn whole_word(&self, word: &str, spelt: &mut String) -> Option<u32> {
        if word.len() > self.vocabulary.max_text_bytes() {
            return None;
        }
        spelt.clear();
        spelt.extend(word.bytes().map(|byte| BYTE_CHARACTERS[byte as usize]));
        self.vocabulary.ordinary_id_of(spelt)
    }
}

/// The pre-tokenizer of a BPE model; `None` for the other kinds.
struct PreSpec(Option<pre_tokenizer_names::PreTokenizerSpec>);

impl PreSpec {
    fn of(config: &TokenizerConfig) -> Self {
        if config.pre_tokenizer.is_some() {
            return Self(config.pre_tokenizer.clone());
        }
        let name = match (&*config.model, config.pre.as_deref()) {
            ("gemma4", _) => "gemma4",
            ("gpt2", Some(name)) => name,
            ("gpt2", None) => {
                tracing::warn!("tokenizer.ggml.pre is missing: words may be split wrongly");
                "default"
            }
            _ => return Self(None),
        };
        let spec = pre_tokenizer_names::find(name).unwrap_or_else(|| {
            tracing::warn!("tokenizer.ggml.pre {name:?} is not known: words may be split wrongly");
            pre_tokenizer_names::default()
        });
        Self(Some(spec))
    }

    fn default_add_bos(&self, config: &TokenizerConfig) -> bool {
        self.0.as_ref().map_or(matches!(&*config.model, "llama" | "bert"), |spec| spec.add_bos)
    }
}

impl Model {
    fn new(
        config: &TokenizerConfig,
        spec: PreSpec,
        vocabulary: &Vocabulary,
        ids: &SpecialIds,
    ) -> Result<Self, TokenizerError> {
        match (&*config.model, spec.0) {
            (_, Some(spec)) => {
                let pre_tokenizer = PreTokenizer::new(&spec)?;
                let is_ranked = config.pre.as_deref() == Some("kimi-k2");
                if config.merges.is_empty() && !is_ranked {
                    return Err(TokenizerError::NoMerges);
                }
                Ok(if spec.over_characters {
                    let bpe = Bpe::over_characters(vocabulary, &config.merges)?;
                    let whole = match (spec.ignore_merges, spec.whole_newlines) {
                        (true, _) => WholeWords::All,
                        (false, true) => WholeWords::Newlines,
                        (false, false) => WholeWords::None,
                    };
                    Self::CharacterBpe { bpe, pre_tokenizer, whole }
                } else {
                    let bpe = if config.merges.is_empty() {
                        Bpe::over_ranked_tokens(vocabulary)?
                    } else {
                        Bpe::over_bytes(vocabulary, &config.merges)?
                    };
                    Self::ByteBpe { bpe, pre_tokenizer, ignore_merges: spec.ignore_merges }
                })
            }
            ("llama", None) => {
                Ok(Self::SentencePiece(SentencePiece::new(vocabulary, &config.scores, ids.unk)?))
            }
            ("t5", None) => Unigram::new(vocabulary, config, ids.unk).map(Self::Unigram),
            ("bert", None) => {
                let unk = ids.unk.ok_or(TokenizerError::NoUnknown)?;
                let lowercase = config.lowercase.unwrap_or(true);
                let strip_accents = config.strip_accents.unwrap_or(lowercase);
                Ok(Self::WordPiece(WordPiece::new(vocabulary, unk, lowercase, strip_accents)?))
            }
            (model, None) => Err(TokenizerError::Model(model.to_owned())),
        }
    }
}

/// The ids of the file, with the defaults of the tokenizer kind; an id out of range is an error.
fn known_special_ids(
    config: &TokenizerConfig,
    num_tokens: usize,
) -> Result<SpecialIds, TokenizerError> {
    let mut ids = config.special_ids;
    let named = [
        ("bos", ids.bos),
        ("eos", ids.eos),
        ("eot", ids.eot),
        ("eom", ids.eom),
        ("unknown", ids.unk),
        ("seperator", ids.sep),
        ("padding", ids.pad),
        ("mask", ids.mask),
        ("cls", ids.cls),
    ];
    for (key, id) in named {
        if let Some(id) = id.filter(|&id| id as usize >= num_tokens) {
            return Err(TokenizerError::SpecialId { key, id, num_tokens });
        }
    }
    let by_text = |text: &str| {
        config.tokens.iter().position(|token| token == text).map(|position| position as u32)
    };
    match &*config.model {
        "llama" => {
            ids.bos = ids.bos.or_else(|| by_text("<s>"));
            ids.eos = ids.eos.or_else(|| by_text("</s>"));
            ids.unk = ids.unk.or_else(|| by_text("<unk>"));
        }
        "t5" => {
            ids.eos = ids.eos.or_else(|| by_text("</s>"));
            ids.unk = ids.unk.or_else(|| by_text("<unk>"));
        }
        "bert" => {
            ids.bos = ids.cls.or(ids.bos).or_else(|| by_text("[CLS]"));
            ids.cls = ids.bos;
            ids.sep = ids.sep.or_else(|| by_text("[SEP]"));
            ids.unk = ids.unk.or_else(|| by_text("[UNK]"));
        }
        _ => {}
    }
    Ok(ids)
}

fn space_prefix(config: &TokenizerConfig, model: &Model) -> SpacePrefix {
    let by_default = match model {
        Model::SentencePiece(_) | Model::Unigram(_) if config.add_space_prefix.unwrap_or(true) => {
            SpacePrefix::Each
        }
        _ => SpacePrefix::Never,
    };
    config.space_prefix.unwrap_or(by_default)
}

/// Those given; in Phi-3 files, which do not say, most control tokens.
fn tokens_that_strip_right(config: &TokenizerConfig, vocabulary: &Vocabulary) -> Vec<u32> {
    if !config.strips_right.is_empty() {
        return config.strips_right.clone();
    }
    let name = config.model_name.to_lowercase();
    if !name.contains("phi-3") && !name.contains("phi3") {
        return Vec::new();
    }
    let keeps = ["<unk>", "<s>", "<|endoftext|>"].map(|text| vocabulary.id_of(text));
    let mut ids = vocabulary.ids_of_kind(|kind| kind == TokenKind::Control);
    ids.retain(|&id| !keeps.contains(&Some(id)));
    ids
}
