//! Server-sent events: a generation as a response body, one event a chunk.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::{FutureExt, StreamExt, stream};
use serde::Serialize;
use serde_json::Value;

use super::{ChoiceEvent, Generation, UsageCount};
use crate::error::ApiError;

/// What a route turns into events.
pub(crate) enum SseInput {
    Event(usize, ChoiceEvent),
    /// Every answer is over and none failed.
    End,
}

/// How an API's streams say what belongs to no answer.
pub(crate) struct Form {
    /// Sent on a silent stream.
    pub ping: &'static str,
    /// Writes a failure, which ends the stream.
    pub error: fn(&ApiError, &mut SseBuffer),
    /// Failures of answers are events for `render`.
    pub renders_failures: bool,
    /// Sent at the end.
    pub end: &'static str,
}

/// As chats and completions have it.
pub(crate) const OPENAI: Form = Form {
    ping: ": keep-alive\n\n",
    error: |error, out| out.push(&error.body()),
    renders_failures: false,
    end: "data: [DONE]\n\n",
};

impl Form {
    /// The end of a stream that failed.
    pub(crate) fn failure(&self, error: &ApiError) -> Bytes {
        let mut buffer = SseBuffer::default();
        (self.error)(error, &mut buffer);
        buffer.0.extend_from_slice(self.end.as_bytes());
        buffer.take()
    }
}

/// Events ready to be sent.
#[derive(Default)]
pub(crate) struct SseBuffer(Vec<u8>);

impl SseBuffer {
    pub(crate) fn push(&mut self, event: &impl Serialize) {
        self.0.extend_from_slice(b"data: ");
        serde_json::to_writer(&mut self.0, event).expect("chunk types have string keys only");
        self.0.extend_from_slice(b"\n\n");
    }

    /// An event that is named as its type.
    pub(crate) fn push_named(&mut self, event: &Value) {
        let name = event["type"].as_str().unwrap_or("error");
        self.0.extend_from_slice(format!("event: {name}\n").as_bytes());
        self.push(event);
    }

    fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.0))
    }
}

/// Streams `generation` as `render` writes it. The body owns the generation: dropping the response cancels it.
pub(crate) fn respond<F>(
    form: &'static Form,
    generation: Generation,
    keep_alive: Option<Duration>,
    render: F,
) -> Response
where
    F: FnMut(SseInput, UsageCount, &mut SseBuffer) + Send + 'static,
{
    let buffer = SseBuffer::default();
    let feed = Feed { form, generation, render, keep_alive, buffer, is_over: false };
    let frames = stream::unfold(feed, async |mut feed| {
        let frame = feed.next_frame().await?;
        Some((frame, feed))
    });
    let frames = AssertUnwindSafe(frames).catch_unwind().map(|frame| {
        Ok::<_, Infallible>(
            frame.unwrap_or_else(|_| form.failure(&ApiError::internal("the stream failed"))),
        )
    });
    response_of(Body::from_stream(frames))
}

/// A response whose body is events.
pub(crate) fn response_of(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that buffer would hold tokens back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Feed<F> {
    form: &'static Form,
    generation: Generation,
    render: F,
    keep_alive: Option<Duration>,
    buffer: SseBuffer,
    is_over: bool,
}

impl<F: FnMut(SseInput, UsageCount, &mut SseBuffer)> Feed<F> {
    /// Events that are ready together travel together. `None` after the end.
    async fn next_frame(&mut self) -> Option<Bytes> {
        const MAX_FRAME_BYTES: usize = 16 << 10;
        if self.is_over {
            return None;
        }
        while self.buffer.0.is_empty() && !self.is_over {
            let next = self.generation.next();
            let event = match self.keep_alive {
                None => next.await,
                Some(interval) => match tokio::time::timeout(interval, next).await {
                    Ok(event) => event,
                    Err(_) => return Some(Bytes::from_static(self.form.ping.as_bytes())),
                },
            };
            self.take_event(event);
        }
        while !self.is_over && self.buffer.0.len() < MAX_FRAME_BYTES {
            let Some(event) = self.generation.next().now_or_never() else { break };
            self.take_event(event);
        }
        (!self.buffer.0.is_empty()).then(|| self.buffer.take())
    }

    fn take_event(&mut self, event: Option<(usize, ChoiceEvent)>) {
        let usage = self.generation.usage();
        match event {
            Some((_, ChoiceEvent::Failed(error))) if !self.form.renders_failures => {
                (self.form.error)(&error, &mut self.buffer);
                self.is_over = true;
            }
            Some((index, event)) => {
                self.is_over = matches!(event, ChoiceEvent::Failed(_));
                (self.render)(SseInput::Event(index, event), usage, &mut self.buffer);
            }
            None => {
                (self.render)(SseInput::End, usage, &mut self.buffer);
                self.is_over = true;
            }
        }
        if self.is_over {
            self.buffer.0.extend_from_slice(self.form.end.as_bytes());
        }
    }
}
