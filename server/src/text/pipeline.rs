//! The tokenizer and the chat templates of one model.

use std::collections::BTreeMap;
use std::sync::Arc;

use quire_engine::ModelFiles;
use quire_engine::weights::gguf::{GgufError, Metadata};

use super::directory::{DirectoryError, TextFiles};
use super::output::OutputFormats;
use super::template::{
    ChatInput, ChatTemplate, FALLBACK_TEMPLATE, RenderedPrompt, TemplateError, TemplateOptions,
    TemplateTokens,
};
use super::tokenizer::{SpecialTokens, Tokenizer, TokenizerConfig, TokenizerError};

/// From what clients send to token ids.
pub struct TextPipeline {
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    /// `tokenizer.chat_template.<name>`.
    named_templates: BTreeMap<String, ChatTemplate>,
    /// The model has none of its own.
    uses_fallback: bool,
}

/// The model file's tokenizer or templates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Metadata(#[from] GgufError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("{key}: {error}")]
    Template { key: String, error: TemplateError },
}

const TEMPLATE_KEY: &str = "tokenizer.chat_template";

/// The name that stands for the model's own template.
const DEFAULT_TEMPLATE: &str = "default";

/// The named template for conversations with tools.
const TOOL_USE: &str = "tool_use";

impl TextPipeline {
    pub fn from_directory(files: &TextFiles, options: &TemplateOptions) -> Result<Self, TextError> {
        let tokenizer = Arc::new(Tokenizer::new(&files.tokenizer)?);
        let default = files.templates.get(DEFAULT_TEMPLATE).map(String::as_str);
        let mut pipeline = Self::new(tokenizer, default, options)?;
        for (name, source) in files.templates.iter().filter(|(name, _)| *name != DEFAULT_TEMPLATE) {
            pipeline.add_template(name, source, &format!("chat template {name:?}"), options)?;
        }
        Ok(pipeline)
    }

    /// Bytes for tokens, of a model without a tokenizer.
    pub fn placeholder(vocab_size: usize, options: &TemplateOptions) -> Result<Self, TextError> {
        let config = TokenizerConfig::placeholder(vocab_size);
        Self::new(Arc::new(Tokenizer::new(&config)?), None, options)
    }

    pub fn from_gguf(metadata: &Metadata, options: &TemplateOptions) -> Result<Self, TextError> {
        let tokenizer = Arc::new(Tokenizer::from_gguf(metadata)?);
        let source = metadata.string(TEMPLATE_KEY)?;
        let mut pipeline = Self::new(tokenizer, source, options)?;
        for key in metadata.keys() {
            let Some(name) = key.strip_prefix("tokenizer.chat_template.") else { continue };
            if let Some(source) = metadata.string(key)? {
                pipeline.add_template(name, source, key, options)?;
            }
        }
        Ok(pipeline)
    }

    /// `key` names the template in errors.
    fn add_template(
        &mut self,
        name: &str,
        source: &str,
        key: &str,
        options: &TemplateOptions,
    ) -> Result<(), TextError> {
        let template = ChatTemplate::new(source, template_tokens(&self.tokenizer), *options)
            .map_err(|error| TextError::Template { key: key.to_owned(), error })?;
        self.named_templates.insert(name.to_owned(), template);
        Ok(())
    }

    /// A model with at most one template; without one, [`FALLBACK_TEMPLATE`] is used.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        template: Option<&str>,
        options: &TemplateOptions,
    ) -> Result<Self, TextError> {
        let uses_fallback = template.is_none();
        let source = template.unwrap_or(FALLBACK_TEMPLATE);
        let template = ChatTemplate::new(source, template_tokens(&tokenizer), *options)
            .map_err(|error| TextError::Template { key: TEMPLATE_KEY.to_owned(), error })?;
        Ok(Self { tokenizer, template, named_templates: BTreeMap::new(), uses_fallback })
    }

    /// Whether chats are written as ChatML because the model has no template.
    pub fn uses_fallback_template(&self) -> bool {
        self.uses_fallback
    }

    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The template that a conversation is written with.
    pub fn template_for(&self, input: &ChatInput) -> &ChatTemplate {
        let tool_use = self.named_templates.get(TOOL_USE).filter(|_| input.tools.is_some());
        tool_use.unwrap_or(&self.template)
    }

    /// The formats that the model writes: of the template for tools where it has one.
    pub fn output_formats(&self) -> OutputFormats {
        let default = OutputFormats::of_template(self.template.source());
        let Some(tool_use) = self.named_templates.get(TOOL_USE) else { return default };
        let formats = OutputFormats::of_template(tool_use.source());
        OutputFormats { reasoning: default.reasoning, ..formats }
    }

    /// The template of a name; `default` is the model's own.
    pub fn template(&self, name: &str) -> Option<&ChatTemplate> {
        if name == DEFAULT_TEMPLATE { Some(&self.template) } else { self.named_templates.get(name) }
    }

    pub fn render_chat(&self, input: &ChatInput) -> Result<RenderedPrompt, TemplateError> {
        self.template_for(input).render(input)
    }

    /// The tokens of a conversation. Special tokens are those that the template wrote; what
    /// clients wrote stays text. The BOS token comes first once, by template or by metadata.
    pub fn encode_chat(&self, input: &ChatInput) -> Result<Vec<u32>, TemplateError> {
        Ok(self.encode_rendered(&self.render_chat(input)?))
    }

    pub fn encode_rendered(&self, prompt: &RenderedPrompt) -> Vec<u32> {
        let mut tokens = self.tokenizer.encode_with_barriers(
            &prompt.text,
            SpecialTokens::Parse,
            &prompt.barriers,
        );
        let prefix = self.tokenizer.prefix_tokens();
        if !tokens.starts_with(prefix) {
            tokens.splice(..0, prefix.iter().copied());
        }
        tokens
    }

    /// The tokens of a text that is the whole prompt, with its special tokens. The texts of
    /// control tokens are such tokens: who sends a whole prompt writes the template's part too.
    pub fn encode_prompt(&self, text: &str, add_special_tokens: bool) -> Vec<u32> {
        self.encode_cut(text, add_special_tokens, usize::MAX)
    }

    /// As [`Self::encode_prompt`], with at most `max_tokens`: the text loses its end, not the tokens around it.
    pub fn encode_cut(&self, text: &str, add_special_tokens: bool, max_tokens: usize) -> Vec<u32> {
        let mut tokens = self.tokenizer.encode(text, SpecialTokens::Parse);
        if !add_special_tokens {
            tokens.truncate(max_tokens);
            return tokens;
        }
        let (prefix, suffix) = (self.tokenizer.prefix_tokens(), self.tokenizer.suffix_tokens());
        tokens.truncate(max_tokens.saturating_sub(prefix.len() + suffix.len()));
        [prefix, &tokens, suffix].concat()
    }

    /// Two texts as a reranker reads them, and the index of the second one's first token. That one loses its end: what is
    /// over `max_second` tokens of its own, or over `max_tokens` of both. RoBERTa and its kin have two separators.
    pub fn encode_pair(
        &self,
        [first, second]: [&str; 2],
        max_second: usize,
        max_tokens: usize,
    ) -> (Vec<u32>, usize) {
        let encode = |text| self.tokenizer.encode(text, SpecialTokens::Parse);
        let (prefix, end) = (self.tokenizer.prefix_tokens(), self.tokenizer.suffix_tokens());
        let mut tokens = [prefix, &encode(first), end].concat();
        if end.iter().any(|&token| self.tokenizer.token_text(token) == Some("</s>")) {
            tokens.extend(end);
        }
        let (start, mut second) = (tokens.len(), encode(second));
        second.truncate(max_second.min(max_tokens.saturating_sub(start + end.len())));
        tokens.extend(second);
        tokens.extend(end);
        (tokens, start)
    }
}

/// The tokenizer of a model alone.
pub fn tokenizer_of(files: &ModelFiles) -> Result<Tokenizer, TextError> {
    Ok(match files {
        ModelFiles::Gguf(file) => Tokenizer::from_gguf(file.metadata())?,
        ModelFiles::Directory(_) | ModelFiles::Dummy(_) => {
            Tokenizer::new(&TextFiles::read(files.path())?.tokenizer)?
        }
    })
}

fn template_tokens(tokenizer: &Tokenizer) -> TemplateTokens {
    let ids = tokenizer.special_ids();
    let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id)).map(str::to_owned);
    TemplateTokens {
        bos: text(ids.bos).unwrap_or_default(),
        eos: text(ids.eos).unwrap_or_default(),
        unk: text(ids.unk),
        pad: text(ids.pad),
        control: Arc::clone(tokenizer.control_texts()),
    }
}
