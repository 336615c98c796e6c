//! Finds calls in text while it grows. What looks like a call and is none stays text.

use std::sync::Arc;

use super::super::markers::{certain_len, char_floor, first_of};
use super::cursor::{Cursor, Stop};
use super::{Ids, RawCall, ToolFormat, ToolSet};

/// What was found, in order.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::text) enum Found {
    Text(String),
    /// A whole call with its arguments as JSON.
    Call {
        id: String,
        name: String,
        arguments: String,
    },
}

/// Reads the calls of one answer.
///
/// Nothing is decided before its text is there to the end, so where the text is cut does not matter. A call is told
/// when it is whole: until then it could turn out to be none.
pub(in crate::text) struct ToolReader {
    format: &'static ToolFormat,
    ids: Ids,
    tools: Arc<ToolSet>,
    openers: Vec<&'static str>,
    /// Text that is undecided.
    held: String,
    /// Nothing is decided before this text comes, behind so many bytes of `held`.
    awaited: Option<(&'static str, usize)>,
    /// Something other than calls was written.
    has_text: bool,
    /// Only white space was written since the last call.
    follows_call: bool,
}

/// What is to be done with the beginning of `held`.
enum Next {
    /// So many bytes are text.
    Text(usize),
    /// So many bytes say nothing.
    Skip(usize),
    Calls(usize, Vec<RawCall>),
    Wait,
}

impl ToolReader {
    /// `ids` are those of another format, where the calls are to look as if they were of that.
    pub(in crate::text) fn new(
        format: &'static ToolFormat,
        ids: &'static ToolFormat,
        tools: Arc<ToolSet>,
    ) -> Self {
        Self {
            format,
            ids: ids.ids,
            tools,
            openers: format.openers.to_vec(),
            held: String::new(),
            awaited: None,
            has_text: false,
            follows_call: false,
        }
    }

    pub(in crate::text) fn push(&mut self, text: &str, out: &mut Vec<Found>) {
        self.held.push_str(text);
        if let Some((needle, from)) = self.awaited {
            let from = char_floor(&self.held, from);
            if !self.held[from..].contains(needle) {
                let next = self.held.len().saturating_sub(needle.len());
                self.awaited = Some((needle, next.max(from)));
                return;
            }
        }
        self.drain(false, out);
    }

    /// No more text comes, or what comes belongs to something else.
    pub(in crate::text) fn finish(&mut self, out: &mut Vec<Found>) {
        self.drain(true, out);
    }

    fn drain(&mut self, is_end: bool, out: &mut Vec<Found>) {
        self.awaited = None;
        while !self.held.is_empty() {
            match self.next(is_end) {
                Next::Wait => return,
                Next::Skip(len) => drop(self.held.drain(..len)),
                Next::Text(len) => self.take_text(len, out),
                Next::Calls(len, calls) => {
                    self.held.drain(..len);
                    self.follows_call = true;
                    out.extend(calls.into_iter().map(|call| Found::Call {
                        id: call.id.unwrap_or_else(|| self.ids.fresh()),
                        name: call.name,
                        arguments: call.arguments,
                    }));
                }
            }
        }
    }

    fn take_text(&mut self, len: usize, out: &mut Vec<Found>) {
        let text: String = self.held.drain(..len).collect();
        if !text.trim().is_empty() {
            self.has_text = true;
            self.follows_call = false;
        }
        out.push(Found::Text(text));
    }

    fn next(&mut self, is_end: bool) -> Next {
        if self.follows_call
            && let Some(next) = self.closer(is_end)
        {
            return next;
        }
        if !self.has_text
            && let Some(next) = self.leading(is_end)
        {
            return next;
        }
        match first_of(&self.held, &self.openers) {
            Some((0, opener)) => self.read(opener, is_end),
            Some((at, _)) => Next::Text(at),
            None if is_end => Next::Text(self.held.len()),
            None => match certain_len(&self.held, &self.openers) {
                0 => Next::Wait,
                len => Next::Text(len),
            },
        }
    }

    /// What only closes the call before.
    fn closer(&self, is_end: bool) -> Option<Next> {
        let text = self.held.trim_start();
        for closer in self.format.closers {
            if text.starts_with(closer) {
                return Some(Next::Skip(self.held.len() - text.len() + closer.len()));
            }
            if closer.starts_with(text) && !is_end {
                return Some(Next::Wait);
            }
        }
        None
    }

    /// A call that begins as an answer does.
    fn leading(&mut self, is_end: bool) -> Option<Next> {
        let text = self.held.trim_start();
        let num_spaces = self.held.len() - text.len();
        let opener = self.format.leading.iter().find(|opener| text.starts_with(**opener))?;
        if num_spaces > 0 {
            return Some(Next::Text(num_spaces));
        }
        Some(self.read(opener, is_end))
    }

    fn read(&mut self, opener: &'static str, is_end: bool) -> Next {
        let mut cursor = Cursor::new(&self.held, is_end);
        match (self.format.read)(&mut cursor, &self.tools) {
            Ok(calls) if calls.iter().all(|call| !call.name.is_empty()) => {
                Next::Calls(cursor.at(), calls)
            }
            Ok(_) | Err(Stop::Malformed) => Next::Text(opener.len()),
            Err(Stop::More(needle)) => {
                let from = |needle: &str| self.held.len().saturating_sub(needle.len());
                self.awaited = needle.map(|needle| (needle, from(needle)));
                Next::Wait
            }
        }
    }
}
