//! What an answer's text means: reasoning, content and tool calls, in the order in which they come.

use std::fmt;
use std::sync::Arc;

use super::markers::char_floor;
use super::reasoning::{self, ReasoningFormat, Segment, Splitter};
use super::tools::{self, Found, ToolChoice, ToolFormat, ToolReader, ToolRequest};

/// A step of an answer, for any API to write in its own form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputEvent {
    /// More of what the model thought.
    Reasoning(String),
    /// More of what it says.
    Content(String),
    /// A call begins. Its arguments follow before anything else does.
    ToolCallStart { index: usize, id: String, name: String },
    /// More of the call's arguments, which are JSON.
    ToolCallArguments { index: usize, delta: String },
}

/// The formats that a model writes; `None`: what it writes is content.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutputFormats {
    pub reasoning: Option<&'static ReasoningFormat>,
    pub tools: Option<&'static ToolFormat>,
    /// The template does not tell of tools in a known form, so the system message does.
    pub tells_tools: bool,
}

/// A format was asked for by a name that none has.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} is not known; known are auto, none, {known}")]
pub struct UnknownFormat {
    name: String,
    known: String,
}

/// How to read one answer.
#[derive(Clone, Debug, Default)]
pub struct OutputOptions {
    pub formats: OutputFormats,
    pub tools: ToolRequest,
    /// The end of the prompt, which may have begun the reasoning.
    pub prompt_end: String,
    /// The prompt ends with the beginning of the answer.
    pub is_continued: bool,
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedMessage {
    pub reasoning: String,
    pub content: String,
    pub tool_calls: Vec<ToolCall>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// JSON.
    pub arguments: String,
}

/// Tells apart what an answer's text means, while it grows. However the text is cut, the events joined are the same.
pub struct OutputParser {
    splitter: Option<Splitter>,
    reader: Option<ToolReader>,
    writer: Writer,
    segments: Vec<Segment>,
    found: Vec<Found>,
}

/// How much of the prompt's end may matter.
const MAX_PROMPT_END: usize = 4 << 10;

impl OutputFormats {
    /// The formats that a chat template writes earlier answers in.
    pub fn of_template(source: &str) -> Self {
        let has = |signs: &&'static [&'static str]| signs.iter().all(|sign| source.contains(sign));
        let tools = tools::FORMATS.iter().find(|format| format.signs.iter().any(has));
        Self {
            reasoning: reasoning::FORMATS.iter().find(|format| has(&format.signs)),
            tools: tools.or(Some(tools::FALLBACK)),
            tells_tools: tools.is_none(),
        }
    }

    /// The names of all formats of tool calls.
    pub fn tool_formats() -> Vec<&'static str> {
        tools::FORMATS.iter().map(|format| format.name).collect()
    }

    /// The names of all formats of reasoning.
    pub fn reasoning_formats() -> Vec<&'static str> {
        reasoning::FORMATS.iter().map(|format| format.name).collect()
    }

    /// The texts that mean something in a format of tool calls.
    pub fn markers_of(tools: &str) -> Vec<&'static str> {
        let format = tools::FORMATS.iter().find(|format| format.name == tools);
        format.into_iter().flat_map(ToolFormat::markers).collect()
    }

    /// With another format for reasoning; `auto` leaves it as it is.
    pub fn with_reasoning(self, name: &str) -> Result<Self, UnknownFormat> {
        let reasoning = match name {
            "auto" => self.reasoning,
            "none" => None,
            _ => {
                let all = reasoning::FORMATS;
                let format = all.iter().find(|f| f.name == name || f.aliases.contains(&name));
                Some(format.ok_or_else(|| unknown(name, all.iter().map(|f| f.name)))?)
            }
        };
        Ok(Self { reasoning, ..self })
    }

    /// With another format for tool calls; `auto` leaves it as it is.
    pub fn with_tools(self, name: &str) -> Result<Self, UnknownFormat> {
        let tools = match name {
            "auto" => self.tools,
            "none" => None,
            _ => {
                let all = tools::FORMATS;
                let format = all.iter().find(|f| f.name == name || f.aliases.contains(&name));
                Some(format.ok_or_else(|| unknown(name, all.iter().map(|f| f.name)))?)
            }
        };
        Ok(Self { tools, tells_tools: self.tells_tools && name == "auto", ..self })
    }
}

fn unknown(name: &str, known: impl Iterator<Item = &'static str>) -> UnknownFormat {
    UnknownFormat { name: name.to_owned(), known: known.collect::<Vec<_>>().join(", ") }
}

impl fmt::Display for OutputFormats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tools = self.tools.map_or("none", |format| format.name);
        let told = if self.tells_tools { " (told in the system message)" } else { "" };
        let reasoning = self.reasoning.map_or("none", |format| format.name);
        write!(f, "tool calls: {tools}{told}, reasoning: {reasoning}")
    }
}

impl OutputFormats {
    /// What a prompt is to end with where a grammar holds the answer: no reasoning then, and of a named tool the call's
    /// beginning.
    pub fn held_prefix(&self, prompt: &str, choice: &ToolChoice) -> String {
        let is_harmony = self.reasoning.is_some_and(|format| format.name == "harmony");
        let call = match (choice, self.tools) {
            (ToolChoice::Named(name), Some(format)) => format.prefix_of(name),
            _ => String::new(),
        };
        match self.reasoning {
            // The call's own header, if there is one, is the header.
            Some(_) if is_harmony && !call.is_empty() => call,
            Some(format) => format.closing(prompt) + &call,
            None => call,
        }
    }
}

impl OutputOptions {
    /// For an answer to `prompt`, as text.
    pub fn new(
        formats: OutputFormats,
        tools: ToolRequest,
        prompt: &str,
        is_continued: bool,
    ) -> Self {
        let start =
            prompt.len().saturating_sub(if is_continued { usize::MAX } else { MAX_PROMPT_END });
        let prompt_end = prompt[char_floor(prompt, start)..].to_owned();
        Self { formats, tools, prompt_end, is_continued }
    }

    /// Whether the request says which tool is to be called.
    pub fn names_tool(&self) -> bool {
        matches!(self.tools.choice, ToolChoice::Named(_))
    }

    fn tool_format(&self) -> Option<&'static ToolFormat> {
        let format = ToolFormat::of_choice(&self.tools.choice).or(self.formats.tools);
        format.filter(|_| self.tools.is_active())
    }

    /// The texts that the parser must see though they may be control tokens.
    pub fn markers(&self) -> impl Iterator<Item = &'static str> {
        let reasoning = self.formats.reasoning.into_iter().flat_map(|format| format.markers);
        reasoning.copied().chain(self.tool_format().into_iter().flat_map(ToolFormat::markers))
    }
}

impl ParsedMessage {
    pub fn add(&mut self, event: OutputEvent) {
        match event {
            OutputEvent::Reasoning(text) => self.reasoning.push_str(&text),
            OutputEvent::Content(text) => self.content.push_str(&text),
            OutputEvent::ToolCallStart { id, name, .. } => {
                self.tool_calls.push(ToolCall { id, name, arguments: String::new() });
            }
            OutputEvent::ToolCallArguments { delta, .. } => {
                if let Some(call) = self.tool_calls.last_mut() {
                    call.arguments.push_str(&delta);
                }
            }
        }
    }
}

impl OutputParser {
    pub fn new(options: &OutputOptions) -> Self {
        let splitter = options
            .formats
            .reasoning
            .map(|format| format.splitter(&options.prompt_end, options.is_continued));
        let reader = options.tool_format().map(|format| {
            let ids = options.formats.tools.unwrap_or(format);
            ToolReader::new(format, ids, Arc::clone(&options.tools.tools))
        });
        Self {
            splitter,
            reader,
            writer: Writer::default(),
            segments: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Takes the next text and adds what it comes to, often nothing.
    pub fn push(&mut self, text: &str, out: &mut Vec<OutputEvent>) {
        if text.is_empty() {
            return;
        }
        match &mut self.splitter {
            Some(splitter) => {
                splitter.push(text, &mut self.segments);
                self.take_segments(out);
            }
            None => self.take_text(text, out),
        }
    }

    /// No more text comes: adds what was held back.
    pub fn finish(&mut self, out: &mut Vec<OutputEvent>) {
        if let Some(splitter) = &mut self.splitter {
            splitter.finish(&mut self.segments);
            self.take_segments(out);
        }
        self.finish_reader(out);
        self.writer.finish(out);
    }

    /// Whether the text so far ends inside reasoning.
    pub fn is_reasoning(&self) -> bool {
        self.splitter.as_ref().is_some_and(Splitter::is_reasoning)
    }

    /// Whether reasoning is told apart.
    pub fn knows_reasoning(&self) -> bool {
        self.splitter.is_some()
    }

    pub fn num_calls(&self) -> usize {
        self.writer.num_calls
    }

    fn take_segments(&mut self, out: &mut Vec<OutputEvent>) {
        let mut segments = std::mem::take(&mut self.segments);
        for segment in segments.drain(..) {
            match segment {
                Segment::Text(text) => self.take_text(&text, out),
                Segment::Break => {
                    self.finish_reader(out);
                    self.writer.end_part();
                }
                Segment::Reasoning(text) => {
                    self.finish_reader(out);
                    self.writer.reasoning(&text, out);
                }
            }
        }
        self.segments = segments;
    }

    fn take_text(&mut self, text: &str, out: &mut Vec<OutputEvent>) {
        let may_change = self.splitter.as_ref().is_some_and(|splitter| !splitter.is_over());
        self.writer.holds = may_change || self.reader.is_some();
        match &mut self.reader {
            Some(reader) => {
                reader.push(text, &mut self.found);
                self.take_found(out);
            }
            None => self.writer.content(text, out),
        }
    }

    fn finish_reader(&mut self, out: &mut Vec<OutputEvent>) {
        if let Some(reader) = &mut self.reader {
            reader.finish(&mut self.found);
            self.take_found(out);
        }
    }

    fn take_found(&mut self, out: &mut Vec<OutputEvent>) {
        for found in self.found.drain(..) {
            match found {
                Found::Text(text) => self.writer.content(&text, out),
                Found::Call { id, name, arguments } => self.writer.call(id, name, arguments, out),
            }
        }
    }
}

/// Writes events without the white space that formats put between their parts.
#[derive(Default)]
struct Writer {
    part: Part,
    /// White space at the end of the part, which belongs to it only if more of it comes.
    held: String,
    /// What follows the content may make white space at its end meaningless.
    holds: bool,
    num_calls: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Part {
    /// What comes first is content as it is.
    #[default]
    Start,
    Reasoning,
    Content,
    /// Behind content that was a message of its own.
    Message,
    /// Behind reasoning or a call.
    Between,
}

impl Writer {
    fn reasoning(&mut self, text: &str, out: &mut Vec<OutputEvent>) {
        if self.part != Part::Reasoning {
            self.held.clear();
        }
        let text = if self.part == Part::Reasoning { text } else { text.trim_start() };
        self.part = if self.part == Part::Reasoning || !text.is_empty() {
            Part::Reasoning
        } else {
            Part::Between
        };
        if let Some(text) = self.without_end(text, true) {
            out.push(OutputEvent::Reasoning(text));
        }
    }

    fn content(&mut self, text: &str, out: &mut Vec<OutputEvent>) {
        if self.part == Part::Reasoning {
            self.held.clear();
            self.part = Part::Between;
        }
        let is_first = matches!(self.part, Part::Between | Part::Message);
        let text = if is_first { text.trim_start() } else { text };
        if text.is_empty() {
            return;
        }
        if self.part == Part::Message {
            self.held.push_str("\n\n");
        }
        self.part = Part::Content;
        if let Some(text) = self.without_end(text, self.holds) {
            out.push(OutputEvent::Content(text));
        }
    }

    fn call(&mut self, id: String, name: String, arguments: String, out: &mut Vec<OutputEvent>) {
        self.held.clear();
        self.part = Part::Between;
        let index = self.num_calls;
        self.num_calls += 1;
        out.push(OutputEvent::ToolCallStart { index, id, name });
        out.push(OutputEvent::ToolCallArguments { index, delta: arguments });
    }

    /// What comes next is no part of what came before.
    fn end_part(&mut self) {
        self.held.clear();
        self.part = match self.part {
            Part::Content | Part::Message => Part::Message,
            Part::Start | Part::Reasoning | Part::Between => Part::Between,
        };
    }

    fn finish(&mut self, out: &mut Vec<OutputEvent>) {
        let held = std::mem::take(&mut self.held);
        if self.part == Part::Content && !held.is_empty() {
            out.push(OutputEvent::Content(held));
        }
    }

    /// What was held and `text`, but for white space at the end if that is to be held now.
    fn without_end(&mut self, text: &str, holds: bool) -> Option<String> {
        let mut shown = std::mem::take(&mut self.held);
        let end = if holds { text.trim_end().len() } else { text.len() };
        if end == 0 && holds {
            shown.push_str(text);
            self.held = shown;
            return None;
        }
        shown.push_str(&text[..end]);
        text[end..].clone_into(&mut self.held);
        Some(shown).filter(|shown| !shown.is_empty())
    }
}
