//! Text and tokens: tokenizers, chat templates, incremental decoding, stop strings.

mod detokenizer;
mod pipeline;
mod stop;
mod template;
mod tokenizer;

pub use detokenizer::Detokenizer;
pub use pipeline::{TextError, TextPipeline};
pub use stop::{StopError, StopEvent, StopLimits, StopMatcher};
pub use template::{
    ChatInput, ChatTemplate, FALLBACK_TEMPLATE, RenderedPrompt, TemplateError, TemplateLimits,
    TemplateTokens,
};
pub use tokenizer::{
    ControlTexts, SpecialIds, SpecialTokens, Tokenizer, TokenizerConfig, TokenizerError,
};
