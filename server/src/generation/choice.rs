//! One answer as it grows: engine events in, shown text with its tokens out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::{Stream, StreamExt};
use quire_engine::TokenStream;
use quire_engine::request::{
    DraftStats, FinishReason, Finished, Started, StreamEvent, TokenId, TokenOutput,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::answer_text::{AnswerText, Ending};
use super::{GenerationSpec, TextOptions};
use crate::error::ApiError;
use crate::limits::ServerLimits;
use crate::model::ServedModel;
use crate::text::{OutputEvent, OutputOptions};

/// A step of one answer. `Started` comes first and once; a delta with `finish`, or `Failed`, comes last.
#[derive(Debug)]
pub(crate) enum ChoiceEvent {
    Started(Started),
    Delta(Delta),
    Failed(ApiError),
}

/// Text that is sure to stay, and the tokens that came since the delta before.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    /// Of answers that are not parsed.
    pub text: String,
    /// Of answers that are.
    pub events: Vec<OutputEvent>,
    /// Of `tokens` and earlier ones that were not counted yet.
    pub num_reasoning_tokens: u64,
    pub tokens: Vec<TokenOutput>,
    /// What became of guesses since then.
    pub drafts: DraftStats,
    pub finish: Option<Finish>,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finish {
    /// `stop`, `length`, `tool_calls` or `abort`.
    pub reason: &'static str,
    pub stop_reason: Option<StopReason>,
}

/// What made an answer stop, other than the model's own end token.
#[derive(Clone, Debug, JsonSchema, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum StopReason {
    Token(TokenId),
    Text(String),
}

/// One answer. Dropping it cancels its request.
pub(super) struct Choice {
    index: usize,
    /// `None` once the answer is over.
    stream: Option<TokenStream>,
    model: Arc<ServedModel>,
    text: AnswerText,
    text_options: TextOptions,
    names_tool: bool,
    stop_token_ids: Vec<TokenId>,
    min_tokens: u32,
    /// The field that asked for structured output.
    constraint_field: &'static str,
    num_tokens: u32,
    /// The last token, while it may turn out to be the end token, whose text is not shown.
    undecided: Option<TokenId>,
    delta: Delta,
}

impl Choice {
    pub(super) fn new(
        index: usize,
        stream: TokenStream,
        model: &Arc<ServedModel>,
        spec: &GenerationSpec,
        limits: &ServerLimits,
    ) -> Result<Self, ApiError> {
        let options = spec.text.clone();
        Ok(Self {
            index,
            stream: Some(stream),
            model: Arc::clone(model),
            text: AnswerText::new(model, spec, limits)?,
            names_tool: spec.output.as_ref().is_some_and(OutputOptions::names_tool),
            text_options: options,
            stop_token_ids: spec.params.stop_token_ids.clone(),
            min_tokens: spec.params.min_tokens,
            constraint_field: spec.structured_output.as_ref().map_or("", |asked| asked.field),
            num_tokens: 0,
            undecided: None,
            delta: Delta::default(),
        })
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Ends the answer where it is.
    pub(super) fn abort(&mut self) -> ChoiceEvent {
        self.show_rest().unwrap_or_else(|| self.finish("abort", None))
    }

    /// `None` when the event shows nothing yet.
    fn take_event(&mut self, event: Option<StreamEvent>) -> Option<ChoiceEvent> {
        match event {
            Some(StreamEvent::Started(started)) => Some(ChoiceEvent::Started(started)),
            Some(StreamEvent::Token(token)) => self.take_token(token),
            Some(StreamEvent::Drafts(drafts)) => {
                self.delta.drafts.count(drafts.num_tokens, drafts.num_right);
                None
            }
            // Nobody asked for one.
            Some(StreamEvent::Embedding(_)) => None,
            Some(StreamEvent::Finished(finished)) => Some(self.take_finished(finished)),
            None => Some(ChoiceEvent::Failed(ApiError::engine_stopped())),
        }
    }

    fn take_token(&mut self, output: TokenOutput) -> Option<ChoiceEvent> {
        let token = output.token;
        if let Some(earlier) = self.undecided.take()
            && let Some(end) = self.show(earlier)
        {
            // The newer token belongs to text behind the stop string.
            return Some(end);
        }
        self.num_tokens += 1;
        self.delta.tokens.push(output);
        if self.model.is_special(token) || self.stop_token_ids.contains(&token) {
            self.undecided = Some(token);
        } else if let Some(end) = self.show(token) {
            return Some(end);
        }
        let shows = !self.delta.text.is_empty() || !self.delta.events.is_empty();
        let is_wanted = shows || self.text_options.every_token;
        is_wanted.then(|| ChoiceEvent::Delta(std::mem::take(&mut self.delta)))
    }

    /// Adds the token's text; the last delta when the answer is over with it.
    fn show(&mut self, token: TokenId) -> Option<ChoiceEvent> {
        let is_early = self.num_tokens <= self.min_tokens && self.min_tokens > 0;
        let ending = self.text.push(token, is_early, &mut self.delta)?;
        Some(self.end_with(ending))
    }

    /// Shows what was held back until the end.
    fn show_rest(&mut self) -> Option<ChoiceEvent> {
        let ending = self.text.finish(&mut self.delta)?;
        Some(self.end_with(ending))
    }

    fn end_with(&mut self, ending: Ending) -> ChoiceEvent {
        let stop_reason = match ending {
            Ending::Stop(matched) => {
                Some(StopReason::Text(self.text_options.stop[matched].clone()))
            }
            Ending::Call => None,
        };
        self.finish("stop", stop_reason)
    }

    fn take_finished(&mut self, finished: Finished) -> ChoiceEvent {
        let (reason, stop_reason) = match finished.reason {
            FinishReason::EndToken | FinishReason::Embedded => ("stop", None),
            FinishReason::StopToken(token) => ("stop", Some(StopReason::Token(token))),
            FinishReason::Length => ("length", None),
            FinishReason::Aborted => ("abort", None),
            FinishReason::DeadEnd(message) => {
                self.stream = None;
                return ChoiceEvent::Failed(ApiError::invalid(self.constraint_field, message));
            }
            FinishReason::Stopped(message) => {
                self.stream = None;
                return ChoiceEvent::Failed(ApiError::unavailable(message, 1));
            }
            FinishReason::Error(message) => {
                self.stream = None;
                return ChoiceEvent::Failed(ApiError::internal(message));
            }
        };
        if let Some(token) = self.undecided.take()
            && (reason != "stop" || self.text_options.include_stop)
            && let Some(end) = self.show(token)
        {
            return end;
        }
        if let Some(end) = self.show_rest() {
            return end;
        }
        self.finish(reason, stop_reason)
    }

    /// The last delta. The request is cancelled if it is not over.
    fn finish(&mut self, reason: &'static str, stop_reason: Option<StopReason>) -> ChoiceEvent {
        // A stop string ends what the engine would go on with.
        if let Some(stream) = self.stream.take().filter(|_| reason == "stop") {
            stream.satisfied();
        }
        // Who names the tool knows already that it is called.
        let is_told = reason == "stop" && self.text.has_calls() && !self.names_tool;
        let reason = if is_told { "tool_calls" } else { reason };
        let mut delta = std::mem::take(&mut self.delta);
        delta.finish = Some(Finish { reason, stop_reason });
        ChoiceEvent::Delta(delta)
    }
}

impl Stream for Choice {
    type Item = (usize, ChoiceEvent);

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while let Some(stream) = &mut this.stream {
            let event = ready!(stream.poll_next_unpin(cx));
            if event.is_none() {
                this.stream = None;
            }
            if let Some(event) = this.take_event(event) {
                return Poll::Ready(Some((this.index, event)));
            }
        }
        Poll::Ready(None)
    }
}
