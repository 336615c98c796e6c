//! Harmony: an answer is messages, each on a channel, some of them to a tool.
//!
//! `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>`. The recipient of a
//! call may stand before or behind the channel. A call is passed on as `<|channel|>commentary to=NAME<|message|>…<|call|>`.

use super::super::markers::{certain_len, first_of};
use super::Segment;

pub(super) const MARKERS: &[&str] = &[CHANNEL, MESSAGE, START, END, CALL, RETURN, CONSTRAIN];

const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const START: &str = "<|start|>";
const END: &str = "<|end|>";
const CALL: &str = "<|call|>";
const RETURN: &str = "<|return|>";
const CONSTRAIN: &str = "<|constrain|>";

/// What ends a message; a new message may also begin without an end of the one before.
const ENDS: &[&str] = &[END, CALL, RETURN, START, CHANNEL];

/// What a header begins with: the prompt may have ended behind the role.
const BEGINS: &[&str] = &[START, CHANNEL, MESSAGE, "to="];

/// A header is a role, a channel, a recipient and a type. Longer ones are text.
const MAX_HEADER_BYTES: usize = 512;

pub(in crate::text) struct HarmonySplitter {
    state: State,
    held: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Up to `<|message|>`.
    Header,
    Reasoning,
    Content,
    Call,
}

impl HarmonySplitter {
    pub(super) fn new(prompt: &str) -> Self {
        // A prompt that ends inside a message wants it continued.
        let header = prompt.rfind(START);
        let in_message = header.is_none_or(|at| prompt[at..].contains(MESSAGE));
        let state = match header.map(|at| &prompt[at..]) {
            Some(message) if in_message => kind_of(message.split(MESSAGE).next().unwrap_or("")).0,
            _ => State::Header,
        };
        Self { state, held: String::new() }
    }

    pub(super) fn push(&mut self, text: &str, out: &mut Vec<Segment>) {
        self.held.push_str(text);
        while self.step(out) {}
    }

    /// A header that was cut off says nothing and is dropped; text in its place is kept.
    pub(super) fn finish(&mut self, out: &mut Vec<Segment>) {
        while self.step(out) {}
        let rest = std::mem::take(&mut self.held);
        let is_header = BEGINS.iter().any(|begin| rest.trim_start().starts_with(begin));
        if self.state != State::Header || !is_header {
            self.emit(rest, out);
        }
    }

    pub(super) fn closing(&self) -> &'static str {
        if self.state == State::Header { "<|channel|>final<|message|>" } else { "" }
    }

    pub(super) fn is_reasoning(&self) -> bool {
        self.state == State::Reasoning
    }

    /// Whether another step may follow.
    fn step(&mut self, out: &mut Vec<Segment>) -> bool {
        if self.state == State::Header {
            return self.read_header(out);
        }
        let Some((at, marker)) = first_of(&self.held, ENDS) else {
            let certain = certain_len(&self.held, ENDS);
            let text: String = self.held.drain(..certain).collect();
            self.emit(text, out);
            return false;
        };
        let text = self.held[..at].to_owned();
        self.emit(text, out);
        if self.state == State::Call {
            out.push(Segment::Text(CALL.to_owned()));
        }
        out.push(Segment::Break);
        // The marker that begins a message is a part of its header.
        let is_begin = marker == START || marker == CHANNEL;
        self.held.drain(..if is_begin { at } else { at + marker.len() });
        self.state = State::Header;
        true
    }

    fn read_header(&mut self, out: &mut Vec<Segment>) -> bool {
        let end = self.held.find(MESSAGE);
        let header = &self.held[..end.unwrap_or_else(|| certain_len(&self.held, &[MESSAGE]))];
        let begins = |begin: &&str| match end {
            Some(_) => header.trim_start().starts_with(begin),
            None => is_begun(header.trim_start(), begin),
        };
        let is_header = header.trim().is_empty() || BEGINS.iter().any(begins);
        if !is_header || header.len() > MAX_HEADER_BYTES {
            // Text where a header belongs: a model that does without.
            self.state = State::Content;
            return true;
        }
        let Some(end) = end else { return false };
        let (state, recipient) = kind_of(header);
        if let Some(recipient) = recipient {
            out.push(Segment::Text(format!("{CHANNEL}commentary to={recipient}{MESSAGE}")));
        }
        self.state = state;
        self.held.drain(..end + MESSAGE.len());
        true
    }

    fn emit(&self, text: String, out: &mut Vec<Segment>) {
        if text.is_empty() {
            return;
        }
        out.push(if self.is_reasoning() { Segment::Reasoning(text) } else { Segment::Text(text) });
    }
}

/// Whether `text` begins with `begin`, as far as it goes.
fn is_begun(text: &str, begin: &str) -> bool {
    text.starts_with(begin) || begin.starts_with(text)
}

/// What a message with this header is, and to whom it goes if it is a call.
fn kind_of(header: &str) -> (State, Option<&str>) {
    let channel = header.split(CHANNEL).nth(1).unwrap_or("").trim_start();
    let recipient = header.split("to=").nth(1).and_then(|rest| {
        let end = rest.find(|c: char| c.is_whitespace() || c == '<').unwrap_or(rest.len());
        Some(&rest[..end]).filter(|name| !name.is_empty() && *name != "assistant" && *name != "all")
    });
    match recipient {
        Some(recipient) => (State::Call, Some(recipient)),
        None if channel.starts_with("analysis") => (State::Reasoning, None),
        None => (State::Content, None),
    }
}
