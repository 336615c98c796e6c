//! The items of an answer as they grow, and the events that tell of it.

use serde_json::{Value, json};

use crate::text::OutputEvent;

/// Items that are done, and the one that grows.
#[derive(Default)]
pub(super) struct Output {
    items: Vec<Value>,
    open: Option<Open>,
}

struct Open {
    id: String,
    kind: Kind,
    /// So far.
    text: String,
}

enum Kind {
    Reasoning,
    Message,
    Call { call_id: String, name: String },
}

impl Output {
    pub(super) fn into_items(self) -> Vec<Value> {
        self.items
    }

    /// Adds what the model wrote, and what is to be told of it to `events`.
    pub(super) fn take(&mut self, event: OutputEvent, events: &mut Vec<Value>) {
        match event {
            OutputEvent::Reasoning(text) | OutputEvent::Content(text) if text.is_empty() => {}
            OutputEvent::Reasoning(text) => {
                if !matches!(self.open, Some(Open { kind: Kind::Reasoning, .. })) {
                    self.open(Kind::Reasoning, events);
                }
                self.grow(text, events);
            }
            OutputEvent::Content(text) => {
                if !matches!(self.open, Some(Open { kind: Kind::Message, .. })) {
                    self.open(Kind::Message, events);
                }
                self.grow(text, events);
            }
            OutputEvent::ToolCallStart { id, name, .. } => {
                self.open(Kind::Call { call_id: id, name }, events);
            }
            OutputEvent::ToolCallArguments { delta, .. } => self.grow(delta, events),
        }
    }

    /// The answer is over; one of nothing is a message without text. `is_whole`: the model ended it.
    pub(super) fn finish(&mut self, is_whole: bool, events: &mut Vec<Value>) {
        if self.open.is_none() && self.items.is_empty() {
            self.open(Kind::Message, events);
        }
        self.close(if is_whole { "completed" } else { "incomplete" }, events);
    }

    fn open(&mut self, kind: Kind, events: &mut Vec<Value>) {
        self.close("completed", events);
        let id = format!("{}_{}", kind.prefix(), uuid::Uuid::new_v4().simple());
        let open = Open { id, kind, text: String::new() };
        let index = self.items.len();
        let mut item = open.item("in_progress");
        if item["content"].is_array() {
            item["content"] = json!([]);
        }
        events.push(
            json!({"type": "response.output_item.added", "output_index": index, "item": item}),
        );
        if let Some(part) = open.part() {
            events.push(open.event(index, "response.content_part.added", ("part", part)));
        }
        self.open = Some(open);
    }

    fn grow(&mut self, text: String, events: &mut Vec<Value>) {
        let Some(open) = &mut self.open else { return };
        open.text.push_str(&text);
        let name = format!("response.{}.delta", open.kind.what_grows());
        events.push(open.event(self.items.len(), &name, ("delta", text.into())));
    }

    fn close(&mut self, status: &'static str, events: &mut Vec<Value>) {
        let Some(open) = self.open.take() else { return };
        let index = self.items.len();
        let name = format!("response.{}.done", open.kind.what_grows());
        let field = if matches!(open.kind, Kind::Call { .. }) { "arguments" } else { "text" };
        let mut done = open.event(index, &name, (field, open.text.clone().into()));
        if let Kind::Call { name, .. } = &open.kind {
            done["name"] = name.as_str().into();
        }
        events.push(done);
        if let Some(part) = open.part() {
            events.push(open.event(index, "response.content_part.done", ("part", part)));
        }
        let item = open.item(status);
        events.push(
            json!({"type": "response.output_item.done", "output_index": index, "item": item}),
        );
        self.items.push(item);
    }
}

impl Open {
    /// The one part of its content; calls have none.
    fn part(&self) -> Option<Value> {
        match self.kind {
            Kind::Reasoning => Some(json!({"type": "reasoning_text", "text": self.text})),
            Kind::Message => Some(json!({
                "type": "output_text", "text": self.text, "annotations": [], "logprobs": [],
            })),
            Kind::Call { .. } => None,
        }
    }

    fn item(&self, status: &'static str) -> Value {
        let content: Vec<Value> = self.part().into_iter().collect();
        match &self.kind {
            Kind::Reasoning => json!({
                "id": self.id, "type": "reasoning", "summary": [], "content": content,
                "encrypted_content": null, "status": status,
            }),
            Kind::Message => json!({
                "id": self.id, "type": "message", "role": "assistant", "content": content,
                "status": status,
            }),
            Kind::Call { call_id, name } => json!({
                "id": self.id, "type": "function_call", "call_id": call_id, "name": name,
                "arguments": self.text, "status": status,
            }),
        }
    }

    /// An event of this item's content.
    fn event(&self, index: usize, name: &str, (field, value): (&str, Value)) -> Value {
        let mut event = json!({"type": name, "item_id": self.id, "output_index": index});
        if !matches!(self.kind, Kind::Call { .. }) {
            event["content_index"] = 0.into();
        }
        if name.starts_with("response.output_text") {
            event["logprobs"] = json!([]);
        }
        event[field] = value;
        event
    }
}

impl Kind {
    fn prefix(&self) -> &'static str {
        match self {
            Self::Reasoning => "rs",
            Self::Message => "msg",
            Self::Call { .. } => "fc",
        }
    }

    /// As events call it.
    fn what_grows(&self) -> &'static str {
        match self {
            Self::Reasoning => "reasoning_text",
            Self::Message => "output_text",
            Self::Call { .. } => "function_call_arguments",
        }
    }
}
