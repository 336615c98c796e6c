//! Anthropic's events: a message begins, its blocks grow one after another, the message ends.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::stream;
use serde_json::{Value, json};

use super::error::AnthropicError;
use super::{Message, stop_reason};
use crate::generation::{ChoiceEvent, Generation};
use crate::text::OutputEvent;

/// Streams `generation`. The body owns it: dropping the response cancels it.
pub(super) fn respond(
    message: Message,
    generation: Generation,
    keep_alive: Option<Duration>,
) -> Response {
    let feed = Feed {
        message,
        generation,
        keep_alive,
        has_begun: false,
        open: None,
        num_blocks: 0,
        is_over: false,
    };
    let frames = stream::unfold(feed, async |mut feed| {
        let frame = feed.next_frame().await?;
        Some((Ok::<_, Infallible>(frame), feed))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Feed {
    message: Message,
    generation: Generation,
    keep_alive: Option<Duration>,
    has_begun: bool,
    /// What kind of block is open, and how many there were before it.
    open: Option<&'static str>,
    num_blocks: usize,
    is_over: bool,
}

impl Feed {
    async fn next_frame(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        let mut events = Vec::new();
        while events.is_empty() && !self.is_over {
            let next = self.generation.next();
            let event = match self.keep_alive {
                None => next.await,
                Some(interval) => {
                    let Ok(event) = tokio::time::timeout(interval, next).await else {
                        push(&mut events, &json!({"type": "ping"}));
                        continue;
                    };
                    event
                }
            };
            self.take(event, &mut events);
        }
        Some(Bytes::from(events))
    }

    fn take(&mut self, event: Option<(usize, ChoiceEvent)>, out: &mut Vec<u8>) {
        match event {
            None => self.is_over = true,
            Some((_, ChoiceEvent::Failed(error))) => {
                push(out, &AnthropicError(error).body());
                self.is_over = true;
            }
            Some((_, ChoiceEvent::Started(_))) => self.begin(out),
            Some((_, ChoiceEvent::Delta(delta))) => {
                self.begin(out);
                let finish = delta.finish;
                delta.events.into_iter().for_each(|event| self.show(event, out));
                if let Some(finish) = &finish {
                    let (reason, sequence) = stop_reason(Some(finish));
                    let usage = self.message.envelope(self.generation.usage())["usage"].take();
                    self.close(out);
                    push(
                        out,
                        &json!({
                            "type": "message_delta",
                            "delta": {"stop_reason": reason, "stop_sequence": sequence},
                            "usage": usage,
                        }),
                    );
                    push(out, &json!({"type": "message_stop"}));
                    self.is_over = true;
                }
            }
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let message = self.message.envelope(self.generation.usage());
        push(out, &json!({"type": "message_start", "message": message}));
    }

    fn show(&mut self, event: OutputEvent, out: &mut Vec<u8>) {
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
        push(out, &json!({"type": "content_block_delta", "index": index, "delta": delta}));
    }

    /// Begins a block unless one of its kind is open.
    fn open(&mut self, kind: &'static str, block: &Value, out: &mut Vec<u8>) {
        if self.open == Some(kind) {
            return;
        }
        self.close(out);
        self.open = Some(kind);
        let index = self.num_blocks;
        push(out, &json!({"type": "content_block_start", "index": index, "content_block": block}));
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.open.take().is_some() {
            push(out, &json!({"type": "content_block_stop", "index": self.num_blocks}));
            self.num_blocks += 1;
        }
    }
}

/// An event is named as its type.
fn push(out: &mut Vec<u8>, event: &Value) {
    let name = event["type"].as_str().unwrap_or("error");
    out.extend_from_slice(format!("event: {name}\ndata: {event}\n\n").as_bytes());
}
