//! Stop strings over a stream of text.

use aho_corasick::{AhoCorasick, MatchKind};

/// Finds the first of some strings in text that arrives in pieces.
///
/// The match that ends first wins; of those that end together, the longest. So the result does not
/// depend on how the text is cut.
pub struct StopMatcher {
    stops: Vec<String>,
    automaton: AhoCorasick,
    include_in_output: bool,
    max_bytes: usize,
    /// Text that may be the beginning of a stop string.
    held: String,
    out: String,
    matched: Option<usize>,
}

/// What may be asked for in one request.
#[derive(Clone, Copy, Debug)]
pub struct StopLimits {
    pub max_strings: usize,
    /// Length of one string.
    pub max_bytes: usize,
}

/// A client's stop strings are refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    #[error("a stop string is empty")]
    Empty,
    #[error("{found} stop strings are more than the limit max_strings ({limit})")]
    TooMany { found: usize, limit: usize },
    #[error("a stop string of {found} bytes is longer than the limit max_bytes ({limit})")]
    TooLong { found: usize, limit: usize },
    #[error("stop strings: {0}")]
    Build(String),
}

/// The outcome of one push.
#[derive(Debug, PartialEq, Eq)]
pub struct StopEvent<'a> {
    /// Text that no stop string can take back.
    pub text: &'a str,
    /// Index of the stop string that was met, then and in every later event.
    pub matched: Option<usize>,
}

impl Default for StopLimits {
    fn default() -> Self {
        Self { max_strings: 16, max_bytes: 1024 }
    }
}

impl StopMatcher {
    pub fn new(
        stops: Vec<String>,
        include_in_output: bool,
        limits: &StopLimits,
    ) -> Result<Self, StopError> {
        if stops.len() > limits.max_strings {
            return Err(StopError::TooMany { found: stops.len(), limit: limits.max_strings });
        }
        for stop in &stops {
            if stop.is_empty() {
                return Err(StopError::Empty);
            }
            if stop.len() > limits.max_bytes {
                return Err(StopError::TooLong { found: stop.len(), limit: limits.max_bytes });
            }
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(&stops)
            .map_err(|error| StopError::Build(error.to_string()))?;
        Ok(Self {
            max_bytes: stops.iter().map(String::len).max().unwrap_or(0),
            stops,
            automaton,
            include_in_output,
            held: String::new(),
            out: String::new(),
            matched: None,
        })
    }

    /// Takes the next text and gives what can be sent. After a match there is nothing more.
    pub fn push(&mut self, text: &str) -> StopEvent<'_> {
        self.out.clear();
        if self.matched.is_none() {
            self.held.push_str(text);
            if let Some(found) = self.automaton.find(&self.held) {
                let end = if self.include_in_output { found.end() } else { found.start() };
                self.out.push_str(&self.held[..end]);
                self.held.clear();
                self.matched = Some(found.pattern().as_usize());
            } else {
                let num_safe = self.held.len() - self.num_held_bytes();
                self.out.push_str(&self.held[..num_safe]);
                self.held.drain(..num_safe);
            }
        }
        StopEvent { text: &self.out, matched: self.matched }
    }

    /// The text held back, when no more comes.
    pub fn finish(&mut self) -> &str {
        self.out.clear();
        std::mem::swap(&mut self.out, &mut self.held);
        &self.out
    }

    /// Index of the stop string that was met.
    pub fn matched(&self) -> Option<usize> {
        self.matched
    }

    /// Length of the longest end of `held` that begins a stop string.
    fn num_held_bytes(&self) -> usize {
        let longest = self.max_bytes.saturating_sub(1).min(self.held.len());
        let bytes = self.held.as_bytes();
        let begins_stop = |length: &usize| {
            let end = &bytes[bytes.len() - length..];
            self.stops.iter().any(|stop| stop.as_bytes().starts_with(end))
        };
        (1..=longest).rev().find(begins_stop).unwrap_or(0)
    }
}
