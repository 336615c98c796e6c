//! Reasoning between two markers, such as `<think>` and `</think>`.

use super::super::markers::{certain_len, first_of};
use super::{Pair, Segment};

pub(in crate::text) struct PairSplitter {
    pair: Pair,
    state: State,
    /// Text that may be the beginning of a marker.
    held: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Only white space has come.
    Before,
    Inside,
    After,
}

impl PairSplitter {
    pub(super) fn new(pair: Pair, prompt: &str, is_continued: bool) -> Self {
        let open = pair.open.trim_end();
        let behind = prompt.rfind(open).map(|at| &prompt[at + open.len()..]);
        // What clients wrote is not at the end, unless it is what the model goes on with.
        let is_open = behind.is_some_and(|behind| {
            behind.trim().is_empty() || (is_continued && !behind.contains(pair.close))
        });
        let state = if is_open { State::Inside } else { State::Before };
        Self { pair, state, held: String::new() }
    }

    pub(super) fn push(&mut self, text: &str, out: &mut Vec<Segment>) {
        self.held.push_str(text);
        while self.step(out) {}
    }

    pub(super) fn finish(&mut self, out: &mut Vec<Segment>) {
        let rest = std::mem::take(&mut self.held);
        self.emit(rest, out);
    }

    pub(super) fn is_reasoning(&self) -> bool {
        self.state == State::Inside
    }

    pub(super) fn is_over(&self) -> bool {
        self.state == State::After && !self.pair.anywhere && self.held.is_empty()
    }

    /// Whether another step may follow.
    fn step(&mut self, out: &mut Vec<Segment>) -> bool {
        let marker = match self.state {
            State::Before => return self.begin(out),
            State::Inside => self.pair.close,
            State::After if self.pair.anywhere => self.pair.open,
            State::After => {
                let text = std::mem::take(&mut self.held);
                self.emit(text, out);
                return false;
            }
        };
        if let Some((at, marker)) = first_of(&self.held, &[marker]) {
            let text = self.held[..at].to_owned();
            self.emit(text, out);
            self.held.drain(..at + marker.len());
            if self.is_reasoning() {
                out.push(Segment::Break);
                self.state = State::After;
            } else {
                self.state = State::Inside;
            }
            return true;
        }
        let certain = certain_len(&self.held, &[marker]);
        let text: String = self.held.drain(..certain).collect();
        self.emit(text, out);
        false
    }

    /// Decides whether the answer begins with reasoning.
    fn begin(&mut self, out: &mut Vec<Segment>) -> bool {
        let open = self.pair.open;
        let text = self.held.trim_start();
        if let Some(rest) = text.strip_prefix(open) {
            self.held = rest.to_owned();
            self.state = State::Inside;
            return true;
        }
        if open.starts_with(text) {
            return false;
        }
        self.state = State::After;
        if !self.pair.anywhere {
            let text = std::mem::take(&mut self.held);
            self.emit(text, out);
        }
        true
    }

    fn emit(&self, text: String, out: &mut Vec<Segment>) {
        if text.is_empty() {
            return;
        }
        out.push(if self.is_reasoning() { Segment::Reasoning(text) } else { Segment::Text(text) });
    }
}
