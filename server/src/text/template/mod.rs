//! Chat templates: messages to the prompt that the model was trained on.

mod adapt;
mod functions;
mod limits;
mod provenance;
mod time;

use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value as TemplateValue};
use serde_json::{Map, Value};

use super::tokenizer::ControlTexts;
use super::tools;
use adapt::Capabilities;
use provenance::{Marks, Strength};

pub use limits::TemplateLimits;
pub(crate) use time::strftime;

/// The template of a model that has none: ChatML, which most open models know.
pub const FALLBACK_TEMPLATE: &str = "\
{%- for message in messages -%}
{{ '<|im_start|>' ~ message.role ~ '\n' ~ (message.content or '') ~ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}";

/// How a server treats its model's template.
#[derive(Clone, Copy, Debug, Default)]
pub struct TemplateOptions {
    pub limits: TemplateLimits,
    /// Join messages of one role that follow each other.
    pub merge_consecutive_roles: bool,
}

/// A parsed template. Rendering needs no lock.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    tokens: TemplateTokens,
    limits: TemplateLimits,
    merges_roles: bool,
    capabilities: Capabilities,
}

/// What a template may say about the vocabulary.
#[derive(Clone)]
pub struct TemplateTokens {
    pub bos: String,
    pub eos: String,
    pub unk: Option<String>,
    pub pad: Option<String>,
    /// The tokens that clients must not be able to write.
    pub control: Arc<ControlTexts>,
}

/// One conversation, as the client sent it.
#[derive(Clone, Debug, Default)]
pub struct ChatInput {
    /// Objects with `role`, and `content` as a string or as a list of `{type: text, text}`.
    pub messages: Vec<Value>,
    pub tools: Option<Value>,
    pub documents: Option<Value>,
    pub add_generation_prompt: bool,
    /// The prompt ends inside the last message, for the model to go on.
    pub continue_final_message: bool,
    /// More names for the template, such as `enable_thinking`.
    pub kwargs: Map<String, Value>,
    /// What `strftime_now` tells.
    pub unix_seconds: i64,
}

impl ChatInput {
    /// For an answer without thoughts, as far as the template has a switch for it.
    pub fn without_thinking(&self) -> Self {
        let mut silent = self.clone();
        for name in ["enable_thinking", "thinking"] {
            silent.kwargs.insert(name.to_owned(), Value::Bool(false));
        }
        silent
    }

    /// With tools, calls and their results as text, for templates that do not know them.
    pub fn with_told_tools(&self) -> Self {
        let mut told = self.clone();
        tools::tell(&mut told);
        told
    }
}

/// A prompt, and where no control token may span because a client wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedPrompt {
    pub text: String,
    /// Byte offsets in `text`, ascending.
    pub barriers: Vec<usize>,
}

#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("chat template: {found} is over the limit {limit} ({allowed})")]
    SourceLimit { limit: &'static str, found: usize, allowed: usize },
    #[error("chat template: {0}")]
    Syntax(String),
    #[error("chat_template_kwargs: {0:?} is a name of the chat template's own")]
    ReservedName(String),
    #[error("continue_final_message and add_generation_prompt exclude each other")]
    ContinueAndGenerate,
    #[error("continue_final_message: the last message has no text that the template prints")]
    NothingToContinue,
    /// The template refused the conversation; the text is the template's.
    #[error("{0}")]
    Raised(String),
    #[error("chat template: {0}")]
    Render(String),
    #[error("chat template: the conversation needs more than max_fuel ({0}) instructions")]
    OutOfFuel(u64),
    #[error("chat template: the prompt is longer than max_output_bytes ({0})")]
    OutputLimit(usize),
    #[error("the messages use all noncharacters U+FDD0 to U+FDEF")]
    NoMark,
    #[error("chat template: {0}")]
    Thread(String),
}

impl TemplateError {
    /// Whether another request could succeed where this one failed.
    pub fn is_client_error(&self) -> bool {
        !matches!(self, Self::SourceLimit { .. } | Self::Syntax(_) | Self::Thread(_))
    }
}

const NAME: &str = "chat_template";

/// Names that `chat_template_kwargs` cannot take.
const RESERVED_NAMES: &[&str] = &[
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "strftime_now",
    "raise_exception",
    "namespace",
    "range",
    "dict",
    "debug",
    "loop",
    "self",
    "chat_template",
];

impl ChatTemplate {
    pub fn new(
        source: &str,
        tokens: TemplateTokens,
        options: TemplateOptions,
    ) -> Result<Self, TemplateError> {
        let limits = options.limits;
        limits::check_source(source, &limits)?;
        let parsed = without_generation_tags(source);
        let environment = on_deep_stack(&limits, move || parse(parsed, &limits))?;
        let mut template = Self {
            environment,
            source: source.to_owned(),
            tokens,
            limits,
            merges_roles: options.merge_consecutive_roles,
            capabilities: Capabilities::default(),
        };
        template.capabilities = Capabilities::probe(&template);
        Ok(template)
    }

    /// The template's own text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation, and finds where no control token may be: see `provenance.rs`.
    pub fn render(&self, input: &ChatInput) -> Result<RenderedPrompt, TemplateError> {
        check_input(input)?;
        let mut input = input.clone();
        if self.merges_roles {
            adapt::merge_consecutive_roles(&mut input.messages);
        }
        self.capabilities.adapt(&mut input.messages);
        let control = &*self.tokens.control;
        let marks =
            Marks::choose(&self.source, client_data(&input)).ok_or(TemplateError::NoMark)?;
        if input.continue_final_message {
            adapt::mark_final_message(&mut input.messages, marks.end)
                .ok_or(TemplateError::NothingToContinue)?;
        }
        if !provenance::needs_marks(client_data(&input), control) {
            let text = self.render_marked(&input, marks)?;
            return Ok(RenderedPrompt { text, barriers: Vec::new() });
        }
        let marked = |strength| {
            let text = self.render_marked(&mark_input(&input, control, marks, strength), marks)?;
            let (text, barriers) = provenance::unmark(&text, marks.origin);
            Ok(RenderedPrompt { text, barriers })
        };
        let weak = marked(Strength::Weak)?;
        let strong = match marked(Strength::Strong) {
            Err(_) if !provenance::holds_control_text(client_data(&input), control) => {
                return Ok(weak);
            }
            other => other?,
        };
        // The template saw no difference, or one that changes none of its control tokens.
        let tokens = |prompt: &RenderedPrompt| {
            let found = control.find(&prompt.text, &prompt.barriers);
            found.into_iter().map(|(_, id)| id).collect::<Vec<_>>()
        };
        let is_weak_enough = weak.text != strong.text && tokens(&weak) == tokens(&strong);
        Ok(if is_weak_enough { weak } else { strong })
    }

    fn render_marked(&self, input: &ChatInput, marks: Marks) -> Result<String, TemplateError> {
        let text = self.render_text(input)?;
        if !input.continue_final_message {
            return Ok(text);
        }
        let end = text.rfind(marks.end).ok_or(TemplateError::NothingToContinue)?;
        // The space behind the mark is gone if the template trims; then the text was trimmed too.
        let was_trimmed = !text[end + marks.end.len_utf8()..].starts_with(' ');
        let text = &text[..end];
        Ok(if was_trimmed { text.trim_end().to_owned() } else { text.to_owned() })
    }

    fn render_text(&self, input: &ChatInput) -> Result<String, TemplateError> {
        on_deep_stack(&self.limits, || {
            let template = self.environment.get_template(NAME).map_err(|e| syntax_error(&e))?;
            let mut out = LimitedOutput { bytes: Vec::new(), limit: self.limits.max_output_bytes };
            let rendered = template.render_captured_to(self.context(input), &mut out).map(drop);
            if out.bytes.len() > out.limit {
                return Err(TemplateError::OutputLimit(out.limit));
            }
            rendered.map_err(|error| self.render_error(&error))?;
            String::from_utf8(out.bytes).map_err(|error| TemplateError::Render(error.to_string()))
        })
    }

    fn context(&self, input: &ChatInput) -> TemplateValue {
        let mut context = vec![
            ("messages", input.messages.iter().map(functions::from_json).collect()),
            ("tools", input.tools.as_ref().map(functions::from_json).into()),
            ("documents", input.documents.as_ref().map(functions::from_json).into()),
            ("add_generation_prompt", input.add_generation_prompt.into()),
            ("continue_final_message", input.continue_final_message.into()),
            ("bos_token", self.tokens.bos.clone().into()),
            ("eos_token", self.tokens.eos.clone().into()),
        ];
        context.extend(self.tokens.unk.clone().map(|text| ("unk_token", text.into())));
        context.extend(self.tokens.pad.clone().map(|text| ("pad_token", text.into())));
        let now = input.unix_seconds;
        context.push((
            "strftime_now",
            TemplateValue::from_function(move |format: &str| time::strftime(now, format)),
        ));
        let kwargs = input.kwargs.iter();
        let kwargs = kwargs.map(|(name, value)| (&**name, functions::from_json(value)));
        TemplateValue::from_pairs(kwargs.chain(context))
    }

    fn render_error(&self, error: &Error) -> TemplateError {
        if error.kind() == ErrorKind::OutOfFuel {
            return TemplateError::OutOfFuel(self.limits.max_fuel);
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(current) = cause {
            let error = current.downcast_ref::<Error>();
            let raised = error.and_then(|e| e.detail()?.strip_prefix(functions::RAISED));
            if let Some(message) = raised {
                return TemplateError::Raised(message.to_owned());
            }
            if error.is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
                return TemplateError::OutOfFuel(self.limits.max_fuel);
            }
            cause = current.source();
        }
        TemplateError::Render(describe(error))
    }
}

fn check_input(input: &ChatInput) -> Result<(), TemplateError> {
    if let Some(name) = input.kwargs.keys().find(|name| RESERVED_NAMES.contains(&&***name)) {
        return Err(TemplateError::ReservedName(name.clone()));
    }
    if input.continue_final_message && input.add_generation_prompt {
        return Err(TemplateError::ContinueAndGenerate);
    }
    Ok(())
}

/// All that the client wrote.
fn client_data(input: &ChatInput) -> impl Iterator<Item = &Value> {
    let more = input.tools.iter().chain(&input.documents).chain(input.kwargs.values());
    input.messages.iter().chain(more)
}

fn mark_input(
    input: &ChatInput,
    control: &ControlTexts,
    marks: Marks,
    strength: Strength,
) -> ChatInput {
    let mark = |value: &Value| provenance::mark(value, control, marks.origin, strength);
    let kwargs = input.kwargs.iter().map(|(name, value)| (name.clone(), mark(value)));
    ChatInput {
        messages: input.messages.iter().map(mark).collect(),
        tools: input.tools.as_ref().map(mark),
        documents: input.documents.as_ref().map(mark),
        kwargs: kwargs.collect(),
        ..*input
    }
}

fn parse(source: String, limits: &TemplateLimits) -> Result<Environment<'static>, TemplateError> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| syntax_error(&error))?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(limits.max_fuel));
    environment.set_recursion_limit(limits.max_recursion);
    environment.set_debug(false);
    functions::add_to(&mut environment);
    environment.add_template_owned(NAME, source).map_err(|error| syntax_error(&error))?;
    Ok(environment)
}

fn syntax_error(error: &Error) -> TemplateError {
    TemplateError::Syntax(describe(error))
}

/// The error with its line, without the template's text.
fn describe(error: &Error) -> String {
    let detail = error.detail().unwrap_or_default();
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    format!("{}: {detail}{line}", error.kind())
}

/// Parsing, rendering and dropping nested values recurse: a hostile template may not find the end
/// of the stack.
fn on_deep_stack<T: Send>(
    limits: &TemplateLimits,
    work: impl FnOnce() -> Result<T, TemplateError> + Send,
) -> Result<T, TemplateError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("chat-template".to_owned())
            .stack_size(limits.stack_bytes)
            .spawn_scoped(scope, work)
            .map_err(|error| TemplateError::Thread(error.to_string()))?;
        thread.join().unwrap_or_else(|_| Err(TemplateError::Thread("it panicked".to_owned())))
    })
}

/// `{% generation %}` marks what training learns from; for a prompt it means nothing.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find("%}").map_or(rest.len(), |end| end + 2);
        let tag = &rest[..end];
        let inside =
            tag.trim_start_matches(['{', '%', '-', '+']).trim_end_matches(['}', '%', '-', '+']);
        match inside.trim() {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => {
                // Only the opening is passed by: a string inside may hold more tags.
                out.push_str("{%");
                rest = &rest[2..];
                continue;
            }
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

struct LimitedOutput {
    bytes: Vec<u8>,
    limit: usize,
}

impl std::io::Write for LimitedOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            // The buffer over its limit tells the reason to the caller.
            self.bytes.resize(self.limit + 1, b' ');
            return Err(std::io::Error::other("the output limit is reached"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
