//! The text of one answer: tokens in, what may be shown of them out.

use super::{Delta, GenerationSpec};
use crate::error::ApiError;
use crate::limits::ServerLimits;
use crate::model::ServedModel;
use crate::text::{Detokenizer, OutputEvent, OutputParser, StopLimits, StopMatcher};
use quire_engine::request::TokenId;

/// Decodes, tells reasoning and calls from content, and looks for stop strings in the content.
pub(super) struct AnswerText {
    detokenizer: Detokenizer,
    /// `None`: all text is shown as it is.
    parser: Option<OutputParser>,
    /// `None` without stop strings.
    stop_matcher: Option<StopMatcher>,
    /// The answer is over with its first call.
    wants_one_call: bool,
    events: Vec<OutputEvent>,
}

/// Why an answer is over though more tokens may come.
pub(super) enum Ending {
    /// The stop string with this index was met.
    Stop(usize),
    /// The one call that was wanted is there.
    Call,
}

impl AnswerText {
    pub(super) fn new(
        model: &ServedModel,
        spec: &GenerationSpec,
        limits: &ServerLimits,
    ) -> Result<Self, ApiError> {
        let skip_special = spec.text.skip_special_tokens;
        Ok(Self {
            detokenizer: match &spec.output {
                Some(output) => model.parsed_detokenizer(skip_special, output),
                None => model.detokenizer(skip_special),
            },
            parser: spec.output.as_ref().map(OutputParser::new),
            stop_matcher: stop_matcher(spec, limits)?,
            wants_one_call: spec.output.as_ref().is_some_and(|output| output.tools.is_single),
            events: Vec::new(),
        })
    }

    /// Adds what a token shows. Where it is `early` for stop strings, none is looked for.
    pub(super) fn push(
        &mut self,
        token: TokenId,
        early: bool,
        delta: &mut Delta,
    ) -> Option<Ending> {
        let text = self.detokenizer.push(token);
        let Some(parser) = &mut self.parser else {
            return match &mut self.stop_matcher {
                Some(matcher) if !early => {
                    let event = matcher.push(text);
                    delta.text.push_str(event.text);
                    event.matched.map(Ending::Stop)
                }
                _ => {
                    delta.text.push_str(text);
                    None
                }
            };
        };
        let was_reasoning = parser.is_reasoning();
        parser.push(text, &mut self.events);
        delta.num_reasoning_tokens += u64::from(was_reasoning && parser.is_reasoning());
        self.take_events(early, delta)
    }

    /// Adds what was held back until the end.
    pub(super) fn finish(&mut self, delta: &mut Delta) -> Option<Ending> {
        let text = self.detokenizer.finish();
        if let Some(parser) = &mut self.parser {
            parser.push(text, &mut self.events);
            parser.finish(&mut self.events);
            let ending = self.take_events(false, delta);
            if ending.is_none() {
                self.flush(delta);
            }
            return ending;
        }
        let Some(matcher) = &mut self.stop_matcher else {
            delta.text.push_str(text);
            return None;
        };
        let event = matcher.push(text);
        delta.text.push_str(event.text);
        if let Some(matched) = event.matched {
            return Some(Ending::Stop(matched));
        }
        delta.text.push_str(matcher.finish());
        None
    }

    /// Whether calls were made.
    pub(super) fn has_calls(&self) -> bool {
        self.parser.as_ref().is_some_and(|parser| parser.num_calls() > 0)
    }

    fn take_events(&mut self, early: bool, delta: &mut Delta) -> Option<Ending> {
        let mut events = std::mem::take(&mut self.events);
        let mut ending = None;
        for event in events.drain(..) {
            ending = self.take_event(event, early, delta);
            if ending.is_some() {
                break;
            }
        }
        events.clear();
        self.events = events;
        ending
    }

    fn take_event(&mut self, event: OutputEvent, early: bool, delta: &mut Delta) -> Option<Ending> {
        match event {
            OutputEvent::Content(text) => match &mut self.stop_matcher {
                Some(matcher) if !early => {
                    let event = matcher.push(&text);
                    delta.push_content(event.text);
                    return event.matched.map(Ending::Stop);
                }
                _ => delta.push_content(&text),
            },
            other => {
                // What stop strings held back comes first: none goes on behind this.
                self.flush(delta);
                let is_call = matches!(other, OutputEvent::ToolCallArguments { .. });
                delta.events.push(other);
                if is_call && self.wants_one_call {
                    return Some(Ending::Call);
                }
            }
        }
        None
    }

    fn flush(&mut self, delta: &mut Delta) {
        if let Some(matcher) = &mut self.stop_matcher {
            delta.push_content(matcher.finish());
        }
    }
}

impl Delta {
    fn push_content(&mut self, text: &str) {
        match self.events.last_mut() {
            Some(OutputEvent::Content(last)) => last.push_str(text),
            _ if text.is_empty() => {}
            _ => self.events.push(OutputEvent::Content(text.to_owned())),
        }
    }
}

fn stop_matcher(
    spec: &GenerationSpec,
    limits: &ServerLimits,
) -> Result<Option<StopMatcher>, ApiError> {
    let options = &spec.text;
    if options.stop.is_empty() {
        return Ok(None);
    }
    let limits =
        StopLimits { max_strings: limits.max_stop_strings, max_bytes: limits.max_stop_len };
    StopMatcher::new(options.stop.clone(), options.include_stop, &limits)
        .map(Some)
        .map_err(|error| ApiError::invalid("stop", error.to_string()))
}
