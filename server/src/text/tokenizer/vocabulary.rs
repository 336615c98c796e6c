//! The tokens of a model: texts, kinds, and the bytes each one stands for.

use std::sync::LazyLock;

use rustc_hash::FxHashMap;

use super::TokenizerError;
use super::config::TokenizerConfig;

/// How the tokenizer kind writes bytes in its token texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Each byte is one printable character (the GPT-2 table).
    ByteCharacters,
    /// UTF-8 with U+2581 for the space; single bytes are `<0x00>` to `<0xFF>`.
    LowerBlocks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl TokenKind {
    /// Tokens of these kinds never come from ordinary text.
    pub(super) fn is_special(self) -> bool {
        matches!(self, Self::Control | Self::Unknown)
    }
}

pub(super) struct Vocabulary {
    texts: Vec<String>,
    kinds: Vec<TokenKind>,
    ids: FxHashMap<String, u32>,
    bytes: Vec<u8>,
    /// `byte_ends[id]` closes the bytes of token `id`.
    byte_ends: Vec<usize>,
    max_text_bytes: usize,
}

impl Vocabulary {
    pub(super) fn new(
        config: &TokenizerConfig,
        spelling: Spelling,
    ) -> Result<Self, TokenizerError> {
        let num_tokens = config.tokens.len();
        let has_kinds = !config.token_types.is_empty();
        if num_tokens == 0 || u32::try_from(num_tokens).is_err() {
            return Err(TokenizerError::NumTokens(num_tokens));
        }
        if has_kinds && config.token_types.len() != num_tokens {
            return Err(TokenizerError::Length {
                key: "tokenizer.ggml.token_type",
                found: config.token_types.len(),
                expected: num_tokens,
            });
        }
        let kinds = (0..num_tokens).map(|id| match config.token_types.get(id) {
            Some(2) => TokenKind::Unknown,
            Some(3) => TokenKind::Control,
            Some(4) => TokenKind::UserDefined,
            Some(5) => TokenKind::Unused,
            Some(6) => TokenKind::Byte,
            _ => TokenKind::Normal,
        });
        let mut vocabulary = Self {
            texts: config.tokens.clone(),
            kinds: kinds.collect(),
            ids: config.tokens.iter().cloned().zip(0..).collect(),
            bytes: Vec::new(),
            byte_ends: Vec::with_capacity(num_tokens),
            max_text_bytes: config.tokens.iter().map(String::len).max().unwrap_or(0),
        };
        vocabulary.promote_end_texts(has_kinds);
        vocabulary.spell_bytes(spelling);
        Ok(vocabulary)
    }

    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    pub(super) fn max_text_bytes(&self) -> usize {
        self.max_text_bytes
    }

    pub(super) fn id_of(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// The token that ordinary text spelt `text` may become.
    pub(super) fn ordinary_id_of(&self, text: &str) -> Option<u32> {
        self.id_of(text).filter(|&id| !self.kind(id).is_special())
    }

    pub(super) fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(id as usize).map(String::as_str)
    }

    pub(super) fn kind(&self, id: u32) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Unused)
    }

    pub(super) fn set_control(&mut self, id: u32) {
        if let Some(kind) = self.kinds.get_mut(id as usize) {
            *kind = TokenKind::Control;
        }
    }

    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.byte_ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.byte_ends[id - 1] };
        &self.bytes[start..end]
    }

    pub(super) fn ids_of_kind(&self, wanted: impl Fn(TokenKind) -> bool) -> Vec<u32> {
        let ids = (0..self.texts.len() as u32).zip(&self.kinds);
        ids.filter(|&(_, &kind)| wanted(kind)).map(|(id, _)| id).collect()
    }

    /// Some files mark the end of a turn as user defined, which would let any user write it.
    fn promote_end_texts(&mut self, has_kinds: bool) {
        for text in super::end_tokens::END_TEXTS {
            let Some(&id) = self.ids.get(*text) else { continue };
            let kind = self.kinds[id as usize];
            let is_free = !has_kinds || matches!(kind, TokenKind::UserDefined | TokenKind::Unused);
            if is_free && text.starts_with(['<', '[']) {
                self.kinds[id as usize] = TokenKind::Control;
            }
        }
    }

    fn spell_bytes(&mut self, spelling: Spelling) {
        let byte_of = BYTE_CHARACTERS.into_iter().zip(0..=255u8).collect::<FxHashMap<_, _>>();
        for (text, kind) in self.texts.iter().zip(&self.kinds) {
            match (kind, spelling) {
                (TokenKind::Byte, _) if byte_token_value(text).is_some() => {
                    self.bytes.extend(byte_token_value(text));
                }
                (TokenKind::Normal | TokenKind::Unused, Spelling::ByteCharacters) => {
                    for character in text.chars() {
                        match byte_of.get(&character) {
                            Some(&byte) => self.bytes.push(byte),
                            None => push_char(&mut self.bytes, character),
                        }
                    }
                }
                (TokenKind::Normal | TokenKind::Unused, Spelling::LowerBlocks) => {
                    for character in text.chars() {
                        let character = if character == '\u{2581}' { ' ' } else { character };
                        push_char(&mut self.bytes, character);
                    }
                }
                _ => self.bytes.extend_from_slice(text.as_bytes()),
            }
            self.byte_ends.push(self.bytes.len());
        }
    }
}

/// The GPT-2 table: the character that stands for each byte.
pub(super) static BYTE_CHARACTERS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 256;
    std::array::from_fn(|byte| match byte as u8 {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => byte as u8 as char,
        _ => {
            next += 1;
            char::from_u32(next - 1).expect("256 to 323 are characters")
        }
    })
});

/// The byte of a text such as `<0x0A>`.
pub(in crate::text) fn byte_token_value(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_hex { u8::from_str_radix(digits, 16).ok() } else { None }
}

fn push_char(bytes: &mut Vec<u8>, character: char) {
    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}
