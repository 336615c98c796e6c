//! Text and tokens: tokenizers, chat templates, incremental decoding, stop strings, and what answers mean.

mod detokenizer;
mod directory;
mod guard;
mod markers;
mod output;
mod pipeline;
mod reasoning;
mod stop;
mod template;
mod tokenizer;
mod tools;

pub use detokenizer::Detokenizer;
pub use directory::{DirectoryError, TextFiles};
pub(crate) use guard::guarded;
pub use output::{
    OutputEvent, OutputFormats, OutputOptions, OutputParser, ParsedMessage, ToolCall, UnknownFormat,
};
pub use pipeline::{TextError, TextPipeline, tokenizer_of};
pub use stop::{StopError, StopEvent, StopLimits, StopMatcher};
pub(crate) use template::strftime;
pub use template::{
    ChatInput, ChatTemplate, FALLBACK_TEMPLATE, RenderedPrompt, TemplateError, TemplateLimits,
    TemplateOptions, TemplateTokens,
};
pub use tokenizer::{
    ControlTexts, PreTokenizerSpec, SpacePrefix, Spaces, SpecialIds, SpecialTokens, StageSpec,
    Tokenizer, TokenizerConfig, TokenizerError,
};
pub use tools::{Tool, ToolChoice, ToolRequest, ToolSet};
