//! The model as the routes see it: its engine, its text, its defaults.

use std::path::PathBuf;
use std::sync::Arc;

use quire_engine::EngineHandle;
use quire_engine::request::TokenId;
use quire_engine::weights::gguf::Metadata;
use serde_json::Value;

use crate::app::unix_time;
use crate::error::ApiError;
use crate::kv_events::KvPublisher;
use crate::registry::ModelSettings;
use crate::routes::console::LastLook;
use crate::structured::GrammarCompiler;
use crate::text::{
    ChatInput, Detokenizer, OutputFormats, OutputOptions, RenderedPrompt, SpecialTokens,
    TemplateError, TextPipeline, ToolRequest,
};

/// A loaded model.
pub struct ServedModel {
    pub engine: EngineHandle,
    /// What answers and metrics call it; given when it is served.
    pub name: String,
    pub sampling_defaults: SamplingDefaults,
    /// Seconds since 1970 at which it was loaded.
    pub created: u64,
    /// What its Modelfile says.
    pub settings: Arc<ModelSettings>,
    /// Where its files are, for routers that read the tokenizer themselves; empty where unknown.
    pub source: PathBuf,
    /// How it writes reasoning and tool calls.
    pub output_formats: OutputFormats,
    pub(crate) last_look: LastLook,
    /// Of each replica, where events of the prefix cache are wanted.
    pub kv_publishers: Vec<KvPublisher>,
    text: Arc<TextPipeline>,
    pub(crate) grammars: Arc<GrammarCompiler>,
}

/// What a request that does not say gets: the model's own recommendation where it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingDefaults {
    pub temperature: f32,
    /// 0 is off.
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition_penalty: f32,
}

impl Default for SamplingDefaults {
    /// OpenAI's.
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 }
    }
}

impl SamplingDefaults {
    /// What the file recommends (`general.sampling.*`) where it makes sense, OpenAI's values elsewhere.
    pub fn from_gguf(metadata: &Metadata) -> Self {
        let number = |name: &str| metadata.f32(&format!("general.sampling.{name}")).ok().flatten();
        Self {
            top_k: metadata.u32("general.sampling.top_k").ok().flatten().unwrap_or_default(),
            ..Self::sensible(
                number("temp"),
                number("top_p"),
                number("min_p"),
                number("penalty_repeat"),
            )
        }
    }

    /// As `from_gguf`, of a generation_config.json.
    pub fn from_generation_config(config: &Value) -> Self {
        let number = |name: &str| config[name].as_f64().map(|value| value as f32);
        let top_k = config["top_k"].as_u64().and_then(|top_k| u32::try_from(top_k).ok());
        let penalty = number("repetition_penalty");
        Self {
            top_k: top_k.unwrap_or_default(),
            ..Self::sensible(number("temperature"), number("top_p"), number("min_p"), penalty)
        }
    }

    /// The defaults, but for what is given and makes sense.
    fn sensible(
        temperature: Option<f32>,
        top_p: Option<f32>,
        min_p: Option<f32>,
        repetition_penalty: Option<f32>,
    ) -> Self {
        let default = Self::default();
        let number = |value: Option<f32>, low: f32, high: f32, default: f32| {
            value.filter(|value| (low..=high).contains(value)).unwrap_or(default)
        };
        Self {
            temperature: number(temperature, 0.0, 2.0, default.temperature),
            top_k: default.top_k,
            top_p: number(top_p, f32::MIN_POSITIVE, 1.0, default.top_p),
            min_p: number(min_p, 0.0, 1.0, default.min_p),
            repetition_penalty: number(repetition_penalty, 0.1, 10.0, default.repetition_penalty),
        }
    }
}

/// Before the text, between it and what follows, and where the model begins to write; a line a family.
pub(crate) const INFILL_TOKENS: &[[&str; 3]] = &[
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
];

impl ServedModel {
    pub fn new(
        engine: EngineHandle,
        text: Arc<TextPipeline>,
        sampling_defaults: SamplingDefaults,
    ) -> Self {
        let source = PathBuf::new();
        let grammars = GrammarCompiler::new(Arc::clone(&text));
        let output_formats = text.output_formats();
        Self {
            engine,
            name: String::new(),
            sampling_defaults,
            created: unix_time(),
            settings: Arc::default(),
            source,
            kv_publishers: Vec::new(),
            output_formats,
            last_look: LastLook::default(),
            text,
            grammars,
        }
    }

    /// Where the files are; the name where that is unknown.
    pub(crate) fn path_or_name(&self) -> String {
        match self.source.display().to_string() {
            source if source.is_empty() => self.name.clone(),
            source => source,
        }
    }

    /// Tokens that end an answer.
    pub(crate) fn end_tokens(&self) -> &[TokenId] {
        self.text.tokenizer().eos_token_ids()
    }

    pub(crate) fn encode(&self, text: &str, add_special: bool) -> Vec<TokenId> {
        self.text.encode_prompt(text, add_special)
    }

    /// As `encode`, with at most `max_tokens`, of which special ones stay.
    pub(crate) fn encode_cut(
        &self,
        text: &str,
        add_special: bool,
        max_tokens: Option<usize>,
    ) -> Vec<TokenId> {
        self.text.encode_cut(text, add_special, max_tokens.unwrap_or(usize::MAX))
    }

    /// See `TextPipeline::encode_pair`.
    pub(crate) fn encode_pair(
        &self,
        texts: [&str; 2],
        max_second: Option<usize>,
        max_tokens: Option<usize>,
    ) -> (Vec<TokenId>, usize) {
        let limit = |tokens: Option<usize>| tokens.unwrap_or(usize::MAX);
        self.text.encode_pair(texts, limit(max_second), limit(max_tokens))
    }

    pub(crate) fn encode_chat(&self, chat: &ChatInput) -> Result<Vec<TokenId>, ApiError> {
        Ok(self.text.encode_rendered(&self.render_chat(chat)?))
    }

    /// The tokens of a conversation, and how to read the answer to it. `is_held`: by a grammar, from its first token
    /// on, so nothing is thought before.
    pub(crate) fn prepare_chat(
        &self,
        chat: &ChatInput,
        tools: ToolRequest,
        is_held: bool,
    ) -> Result<(Vec<TokenId>, OutputOptions), ApiError> {
        let is_continued = chat.continue_final_message;
        let mut formats = self.output_formats;
        if !is_held || !chat.add_generation_prompt {
            let prompt = self.render_chat(chat)?;
            let output = OutputOptions::new(formats, tools, &prompt.text, is_continued);
            return Ok((self.text.encode_rendered(&prompt), output));
        }
        let mut prompt = self.render_chat(&chat.without_thinking())?;
        prompt.text.push_str(&formats.held_prefix(&prompt.text, &tools.choice));
        formats.reasoning = None;
        let output = OutputOptions::new(formats, tools, &prompt.text, is_continued);
        Ok((self.text.encode_rendered(&prompt), output))
    }

    fn render_chat(&self, chat: &ChatInput) -> Result<RenderedPrompt, ApiError> {
        let told = self.output_formats.tells_tools.then(|| chat.with_told_tools());
        self.text.render_chat(told.as_ref().unwrap_or(chat)).map_err(|error| {
            let param = match &error {
                TemplateError::ReservedName(_) => "chat_template_kwargs",
                TemplateError::ContinueAndGenerate | TemplateError::NothingToContinue => {
                    "continue_final_message"
                }
                _ => "messages",
            };
            if error.is_client_error() {
                ApiError::invalid(param, error.to_string())
            } else {
                ApiError::internal(error.to_string())
            }
        })
    }

    /// The prompt for what stands between two texts; `None`: the vocabulary has no tokens for that. What clients wrote stays
    /// text.
    pub(crate) fn infill(&self, before: &str, after: &str) -> Option<Vec<TokenId>> {
        let tokenizer = self.text.tokenizer();
        let marks = INFILL_TOKENS.iter().find_map(|texts| {
            let [prefix, suffix, middle] = texts.map(|text| tokenizer.id_of(text));
            Some((prefix?, suffix?, middle?))
        });
        let (prefix, suffix, middle) = marks?;
        let text = |text: &str| tokenizer.encode(text, SpecialTokens::AsText);
        let mut prompt = tokenizer.prefix_tokens().to_vec();
        prompt.push(prefix);
        prompt.extend(text(before));
        prompt.push(suffix);
        prompt.extend(text(after));
        prompt.push(middle);
        Some(prompt)
    }

    pub(crate) fn decode(&self, tokens: &[TokenId], skip_special: bool) -> String {
        Detokenizer::decode(self.text.tokenizer(), tokens, skip_special)
    }

    /// Decodes an answer, which goes on from its prompt.
    pub(crate) fn detokenizer(&self, skip_special: bool) -> Detokenizer {
        Detokenizer::continuing(self.text.tokenizer(), skip_special)
    }

    /// As `detokenizer`, with the control tokens that a parser must see.
    pub(crate) fn parsed_detokenizer(
        &self,
        skip_special: bool,
        output: &OutputOptions,
    ) -> Detokenizer {
        let tokenizer = self.text.tokenizer();
        let ids = output.markers().filter_map(|marker| tokenizer.id_of(marker));
        self.detokenizer(skip_special).showing(ids.collect())
    }

    /// What the token stands for; control tokens by their names.
    pub(crate) fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.text.tokenizer().token_bytes_with_special(token)
    }

    /// As the vocabulary spells it.
    pub(crate) fn token_text(&self, token: TokenId) -> &str {
        self.text.tokenizer().token_text(token).unwrap_or("")
    }

    pub(crate) fn is_special(&self, token: TokenId) -> bool {
        self.text.tokenizer().is_special(token)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use quire_engine::weights::gguf::{GgufFile, GgufWriter};

    use super::*;

    #[test]
    fn a_file_recommends_how_to_sample() {
        let mut writer = GgufWriter::new();
        writer.f32("general.sampling.temp", 0.6).u32("general.sampling.top_k", 20);
        writer.f32("general.sampling.top_p", -1.0).string("general.sampling.min_p", "high");
        let file = GgufFile::from_bytes(Path::new("m.gguf"), writer.to_bytes()).expect("valid");
        let defaults = SamplingDefaults::from_gguf(file.metadata());
        let expected =
            SamplingDefaults { temperature: 0.6, top_k: 20, ..SamplingDefaults::default() };
        assert_eq!(defaults, expected);
        let config =
            serde_json::json!({"temperature": 0.6, "top_k": 20, "top_p": -1.0, "min_p": "high"});
        assert_eq!(SamplingDefaults::from_generation_config(&config), expected);
        let nothing = SamplingDefaults::from_generation_config(&serde_json::Value::Null);
        assert_eq!(nothing, SamplingDefaults::default());
    }
}
