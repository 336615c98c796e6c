//! Server-sent events: a generation as a response body, one event a chunk.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::{FutureExt, StreamExt, stream};
use serde::Serialize;

use super::{ChoiceEvent, Generation, UsageCount};
use crate::error::ApiError;

/// What a route turns into events.
pub(crate) enum SseInput {
    Event(usize, ChoiceEvent),
    /// Every answer is over and none failed.
    End,
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

    fn push_error(&mut self, error: &ApiError) {
        self.push(&error.body());
    }

    fn push_done(&mut self) {
        self.0.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.0))
    }
}

/// Streams `generation` as `render` writes it. The body owns the generation: dropping the response cancels it.
pub(crate) fn respond<F>(
    generation: Generation,
    keep_alive: Option<Duration>,
    render: F,
) -> Response
where
    F: FnMut(SseInput, UsageCount, &mut SseBuffer) + Send + 'static,
{
    let feed =
        Feed { generation, render, keep_alive, buffer: SseBuffer::default(), is_over: false };
    let frames = stream::unfold(feed, async |mut feed| {
        let frame = feed.next_frame().await?;
        Some((frame, feed))
    });
    let frames = AssertUnwindSafe(frames).catch_unwind().map(|frame| {
        Ok::<_, Infallible>(frame.unwrap_or_else(|_| {
            let mut buffer = SseBuffer::default();
            buffer.push_error(&ApiError::internal("the stream failed"));
            buffer.push_done();
            buffer.take()
        }))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that buffer would hold tokens back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Feed<F> {
    generation: Generation,
    render: F,
    keep_alive: Option<Duration>,
    buffer: SseBuffer,
    is_over: bool,
}

impl<F: FnMut(SseInput, UsageCount, &mut SseBuffer)> Feed<F> {
    /// Events that are ready together travel together. `None` after `[DONE]`.
    async fn next_frame(&mut self) -> Option<Bytes> {
        const MAX_FRAME_BYTES: usize = 16 << 10;
        if self.is_over {
            return None;
        }
        while self.buffer.0.is_empty() {
            let next = self.generation.next();
            let event = match self.keep_alive {
                None => next.await,
                Some(interval) => match tokio::time::timeout(interval, next).await {
                    Ok(event) => event,
                    Err(_) => return Some(Bytes::from_static(b": keep-alive\n\n")),
                },
            };
            self.take_event(event);
        }
        while !self.is_over && self.buffer.0.len() < MAX_FRAME_BYTES {
            let Some(event) = self.generation.next().now_or_never() else { break };
            self.take_event(event);
        }
        Some(self.buffer.take())
    }

    fn take_event(&mut self, event: Option<(usize, ChoiceEvent)>) {
        let usage = self.generation.usage();
        match event {
            Some((_, ChoiceEvent::Failed(error))) => {
                self.buffer.push_error(&error);
                self.is_over = true;
            }
            Some((index, event)) => {
                (self.render)(SseInput::Event(index, event), usage, &mut self.buffer);
            }
            None => {
                (self.render)(SseInput::End, usage, &mut self.buffer);
                self.is_over = true;
            }
        }
        if self.is_over {
            self.buffer.push_done();
        }
    }
}
