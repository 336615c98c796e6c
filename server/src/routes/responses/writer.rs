//! One response as its answer grows: events for a stream, and the response object at the end, which is stored where asked for.

use serde_json::Value;

use super::object::{Frame, Status};
use super::output::Output;
use super::store::Stored;
use crate::app::SharedState;
use crate::error::ApiError;
use crate::generation::{ChoiceEvent, Finish, UsageCount};

pub(super) struct Writer {
    frame: Frame,
    output: Output,
    state: SharedState,
    num_events: u64,
    has_begun: bool,
    finished: Option<Result<Value, ApiError>>,
}

impl Writer {
    pub(super) fn new(frame: Frame, state: SharedState) -> Self {
        let output = Output::default();
        Self { frame, output, state, num_events: 0, has_begun: false, finished: None }
    }

    /// What a stream tells of the event.
    pub(super) fn take(&mut self, event: ChoiceEvent, usage: UsageCount) -> Vec<Value> {
        let mut events = Vec::new();
        if !std::mem::replace(&mut self.has_begun, true) {
            for name in ["response.created", "response.in_progress"] {
                let object = self.frame.object(&Status::InProgress, &[], usage);
                events.push(serde_json::json!({"type": name, "response": object}));
            }
        }
        match event {
            ChoiceEvent::Started(_) => {}
            ChoiceEvent::Delta(delta) => {
                delta.events.into_iter().for_each(|event| self.output.take(event, &mut events));
                if let Some(finish) = delta.finish {
                    self.finish(&finish, usage, &mut events);
                }
            }
            ChoiceEvent::Failed(error) => {
                let status = Status::Failed(error.message.clone());
                self.end(&status, usage, &mut events);
                self.finished = Some(Err(error));
            }
        }
        for event in &mut events {
            event["sequence_number"] = self.num_events.into();
            self.num_events += 1;
        }
        events
    }

    /// The response, once every event was taken.
    pub(super) fn finished(self) -> Result<Value, ApiError> {
        self.finished.unwrap_or_else(|| Err(ApiError::engine_stopped()))
    }

    fn finish(&mut self, finish: &Finish, usage: UsageCount, events: &mut Vec<Value>) {
        let status = match finish.reason {
            "length" => Status::Incomplete,
            "abort" => Status::Failed("the server is shutting down".into()),
            _ => Status::Completed,
        };
        self.output.finish(matches!(status, Status::Completed), events);
        let object = self.end(&status, usage, events);
        self.finished = Some(Ok(object));
    }

    /// The last event. What has come to an end is stored before anybody hears of it.
    fn end(&mut self, status: &Status, usage: UsageCount, events: &mut Vec<Value>) -> Value {
        let items = std::mem::take(&mut self.output).into_items();
        let mut object = self.frame.object(status, &items, usage);
        if self.frame.is_stored && !matches!(status, Status::Failed(_)) {
            self.frame.conversation.extend(items);
            let stored = Stored::new(
                self.frame.caller,
                &object,
                &self.frame.input,
                &self.frame.conversation,
            );
            object["store"] = self.state.responses.put(&self.frame.id, stored).into();
        }
        events.push(serde_json::json!({"type": status.event(), "response": object}));
        object
    }
}
