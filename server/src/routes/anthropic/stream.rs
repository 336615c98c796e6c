//! Anthropic's events: a message begins, its blocks grow one after another, the message ends.

use std::time::Duration;

use axum::response::Response;
use serde_json::{Value, json};

use super::error::AnthropicError;
use super::{Message, stop_reason};
use crate::generation::sse::{self, Form, SseBuffer, SseInput};
use crate::generation::{ChoiceEvent, Generation, UsageCount};
use crate::text::OutputEvent;

/// Its last event says itself that it is the last.
pub(super) const FORM: Form = Form {
    ping: "event: ping\ndata: {\"type\":\"ping\"}\n\n",
    error: |error, out| out.push_named(&AnthropicError(error.clone()).body()),
    renders_failures: false,
    end: "",
};

/// Streams `generation`. The body owns it: dropping the response cancels it.
pub(super) fn respond(
    message: Message,
    generation: Generation,
    keep_alive: Option<Duration>,
) -> Response {
    let mut writer = Writer { message, has_begun: false, open: None, num_blocks: 0 };
    let render = move |input: SseInput, usage: UsageCount, out: &mut SseBuffer| {
        if let SseInput::Event(_, event) = input {
            writer.take(event, usage, out);
        }
    };
    sse::respond(&FORM, generation, keep_alive, render)
}

struct Writer {
    message: Message,
    has_begun: bool,
    /// What kind of block is open, and how many there were before it.
    open: Option<&'static str>,
    num_blocks: usize,
}

impl Writer {
    fn take(&mut self, event: ChoiceEvent, usage: UsageCount, out: &mut SseBuffer) {
        self.begin(usage, out);
        let ChoiceEvent::Delta(delta) = event else { return };
        delta.events.into_iter().for_each(|event| self.show(event, out));
        if let Some(finish) = &delta.finish {
            let (reason, sequence) = stop_reason(Some(finish));
            self.close(out);
            out.push_named(&json!({
                "type": "message_delta",
                "delta": {"stop_reason": reason, "stop_sequence": sequence},
                "usage": self.message.envelope(usage)["usage"].take(),
            }));
            out.push_named(&json!({"type": "message_stop"}));
        }
    }

    fn begin(&mut self, usage: UsageCount, out: &mut SseBuffer) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let message = self.message.envelope(usage);
        out.push_named(&json!({"type": "message_start", "message": message}));
    }

    fn show(&mut self, event: OutputEvent, out: &mut SseBuffer) {
        let delta = match event {
            OutputEvent::Reasoning(text) => {
                let block = json!({"type": "thinking", "thinking": "", "signature": ""});
                self.open("thinking", &block, out);
                json!({"type": "thinking_delta", "thinking": text})
            }
            OutputEvent::Content(text) => {
                self.open("text", &json!({"type": "text", "text": ""}), out);
                json!({"type": "text_delta", "text": text})
            }
            OutputEvent::ToolCallStart { id, name, .. } => {
                // Each call has a block of its own.
                self.close(out);
                let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                self.open("tool_use", &block, out);
                return;
            }
            OutputEvent::ToolCallArguments { delta, .. } => {
                json!({"type": "input_json_delta", "partial_json": delta})
            }
        };
        let index = self.num_blocks;
        out.push_named(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
    }

    /// Begins a block unless one of its kind is open.
    fn open(&mut self, kind: &'static str, block: &Value, out: &mut SseBuffer) {
        if self.open == Some(kind) {
            return;
        }
        self.close(out);
        self.open = Some(kind);
        let index = self.num_blocks;
        out.push_named(
            &json!({"type": "content_block_start", "index": index, "content_block": block}),
        );
    }

    fn close(&mut self, out: &mut SseBuffer) {
        if self.open.take().is_some() {
            out.push_named(&json!({"type": "content_block_stop", "index": self.num_blocks}));
            self.num_blocks += 1;
        }
    }
}
