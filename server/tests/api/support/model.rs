//! A model without weights: a byte tokenizer with control tokens, and a ChatML template.

use std::sync::Arc;

use quire_engine::EngineHandle;
use quire_server::model::{SamplingDefaults, ServedModel};
use quire_server::text::{
    Detokenizer, SpecialIds, TemplateOptions, TextPipeline, Tokenizer, TokenizerConfig,
};

/// `<|im_start|>`
pub(crate) const START: u32 = 256;
/// `<|im_end|>`, the end token.
pub(crate) const END: u32 = 257;

/// The first of the control tokens that a test adds.
pub(crate) const FIRST_CONTROL: u32 = 259;

pub(super) const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
    {{ message.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Each byte is a token, so that scripts can write answers as text.
pub(crate) fn bytes_as_tokens(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

pub(crate) fn text_of(tokens: &[u32]) -> String {
    Detokenizer::decode(&tokenizer(&[]), tokens, false)
}

fn tokenizer(more: &[&str]) -> Arc<Tokenizer> {
    let mut tokens: Vec<String> = byte_spellings();
    let mut token_types = vec![1; 256];
    for control in ["<|im_start|>", "<|im_end|>"] {
        tokens.push(control.into());
        token_types.push(3);
    }
    // The one token that is made by merging.
    tokens.push("he".into());
    token_types.push(1);
    for control in more {
        tokens.push((*control).to_owned());
        token_types.push(3);
    }
    let config = TokenizerConfig {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens,
        token_types,
        merges: vec!["h e".into()],
        special_ids: SpecialIds { eos: Some(END), ..SpecialIds::default() },
        ..TokenizerConfig::default()
    };
    Arc::new(Tokenizer::new(&config).unwrap())
}

/// How byte BPE vocabularies spell the 256 bytes: printable ones as themselves, the rest from U+0100 on.
fn byte_spellings() -> Vec<String> {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let mut spell = |byte: u8| {
        if is_printable(byte) {
            return char::from(byte).to_string();
        }
        next += 1;
        char::from_u32(next - 1).unwrap().to_string()
    };
    (0..=255).map(&mut spell).collect()
}

pub(crate) fn served_model(handle: EngineHandle) -> ServedModel {
    model_with(handle, TEMPLATE, &[])
}

pub(crate) fn model_with(handle: EngineHandle, template: &str, control: &[&str]) -> ServedModel {
    let limits = TemplateOptions::default();
    let text = TextPipeline::new(tokenizer(control), Some(template), &limits).unwrap();
    ServedModel::new(handle, Arc::new(text), SamplingDefaults::default())
}
