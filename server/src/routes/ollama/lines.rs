//! Answers as Ollama's clients read them: one JSON object, or a line of JSON for each step.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::{FutureExt, StreamExt, stream};
use quire_engine::request::{TokenId, TokenOutput};
use serde_json::{Map, Value, json};

use super::durations::Clock;
use super::error::OllamaError;
use super::incoming::Prepared;
use super::timestamp;
use crate::app::SharedState;
use crate::error::ApiError;
use crate::generation::logprobs::{ChatLogprobs, TokenNames};
use crate::generation::{ChoiceEvent, Delta, Generation, GenerationSpec, UsageCount};
use crate::http;
use crate::model::ServedModel;
use crate::text::{OutputEvent, ParsedMessage};

/// Events that are ready together travel together, up to this many bytes.
const MAX_FRAME_BYTES: usize = 16 << 10;

/// A checked request, ready for the engine.
pub(super) struct Job {
    pub spec: GenerationSpec,
    pub stream: bool,
    pub shape: Shape,
    /// The model as the client called it.
    pub name: String,
    pub model: Arc<ServedModel>,
    pub clock: Clock,
    pub logprobs: bool,
    /// Of the lines before.
    pub num_calls: usize,
    /// Told in headers, such as what was cut off.
    pub headers: HeaderMap,
}

/// Whose answer it is.
pub(super) enum Shape {
    Chat,
    /// With the prompt's tokens, of which and the answer's the field `context` is made.
    Generate {
        context: Option<Vec<TokenId>>,
    },
}

impl Prepared<Job> {
    /// The answer; where there is nothing to answer, `empty` is its field without text.
    pub(super) async fn answer(
        self,
        state: &SharedState,
        empty: (&str, Value),
    ) -> Result<Response, OllamaError> {
        let (name, clock, done_reason) = match self {
            Self::Work(job) => return job.answer(state).await,
            Self::Nothing { name, clock, done_reason } => (name, clock, done_reason),
        };
        let mut body = json!({
            "model": name,
            "created_at": timestamp(SystemTime::now()),
            "done": true,
            "done_reason": done_reason,
            "total_duration": clock.total(),
            "load_duration": clock.load(),
        });
        let (field, value) = empty;
        body[field] = value;
        Ok(http::json(StatusCode::OK, &body))
    }
}

impl Job {
    async fn answer(self, state: &SharedState) -> Result<Response, OllamaError> {
        let generation = Generation::submit(state, &self.model, &self.spec).await.map_err(blame)?;
        let headers = self.headers.clone();
        let mut response = if self.stream {
            stream_lines(Feed { job: self, generation, buffer: Vec::new(), is_over: false })
        } else {
            self.whole(generation).await?
        };
        response.headers_mut().extend(headers);
        Ok(response)
    }

    async fn whole(mut self, mut generation: Generation) -> Result<Response, OllamaError> {
        let mut whole = Delta::default();
        while let Some((_, event)) = generation.next().await {
            match event {
                ChoiceEvent::Started(started) => self.clock.take_started(&started),
                ChoiceEvent::Delta(delta) => {
                    whole.text.push_str(&delta.text);
                    whole.events.extend(delta.events);
                    whole.tokens.extend(delta.tokens);
                    whole.finish = delta.finish.or(whole.finish);
                }
                ChoiceEvent::Failed(error) => return Err(error.into()),
            }
        }
        let line = self.last_line(&whole, generation.usage());
        Ok(http::json(StatusCode::OK, &line))
    }

    /// A step of the answer.
    fn line(&self, delta: &Delta) -> Map<String, Value> {
        let mut line = Map::new();
        line.insert("model".into(), self.name.as_str().into());
        line.insert("created_at".into(), timestamp(SystemTime::now()).into());
        let mut said = ParsedMessage::default();
        delta.events.iter().cloned().for_each(|event| said.add(event));
        // Of an answer that is not parsed.
        said.content.push_str(&delta.text);
        match self.shape {
            Shape::Chat => {
                line.insert("message".into(), self.message(said));
            }
            Shape::Generate { .. } => {
                line.insert("response".into(), said.content.into());
                if !said.reasoning.is_empty() {
                    line.insert("thinking".into(), said.reasoning.into());
                }
            }
        }
        line.insert("done".into(), false.into());
        if self.logprobs {
            let names = TokenNames { model: &self.model, as_ids: false };
            let logprobs = json!(ChatLogprobs::new(names, &delta.tokens));
            line.insert("logprobs".into(), logprobs["content"].clone());
        }
        line
    }

    /// What a step, or the whole, says. A call comes whole.
    fn message(&self, said: ParsedMessage) -> Value {
        let mut message = json!({"role": "assistant", "content": said.content});
        if !said.reasoning.is_empty() {
            message["thinking"] = said.reasoning.into();
        }
        if !said.tool_calls.is_empty() {
            let first = self.num_calls;
            let calls = said.tool_calls.into_iter().enumerate().map(|(index, call)| {
                let arguments: Value =
                    serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
                let (index, name) = (first + index, call.name);
                json!({"id": call.id, "function": {"index": index, "name": name, "arguments": arguments}})
            });
            message["tool_calls"] = calls.collect();
        }
        message
    }

    /// The line that ends the answer, with the text of `delta`.
    fn last_line(&mut self, delta: &Delta, usage: UsageCount) -> Map<String, Value> {
        self.keep_context(&delta.tokens);
        let mut line = self.line(delta);
        let reason = match delta.finish.as_ref().map_or("abort", |finish| finish.reason) {
            // That there are calls the message says.
            "tool_calls" => "stop",
            reason => reason,
        };
        line.insert("done".into(), true.into());
        line.insert("done_reason".into(), reason.into());
        if let Shape::Generate { context: Some(context) } = &self.shape {
            line.insert("context".into(), json!(context));
        }
        if let Value::Object(durations) = json!(self.clock.stop(usage)) {
            line.extend(durations);
        }
        line
    }

    fn keep_context(&mut self, tokens: &[TokenOutput]) {
        if let Shape::Generate { context: Some(context) } = &mut self.shape {
            context.extend(tokens.iter().map(|output| output.token));
        }
    }
}

/// Names what the engine blames as Ollama's clients know it.
fn blame(mut error: ApiError) -> ApiError {
    let rename = [("max_tokens", "num_predict"), ("repetition_penalty", "repeat_penalty")];
    for (ours, theirs) in rename {
        error.message = error.message.replace(ours, theirs);
    }
    error
}

struct Feed {
    job: Job,
    generation: Generation,
    buffer: Vec<u8>,
    is_over: bool,
}

impl Feed {
    fn push(&mut self, line: &impl serde::Serialize) {
        serde_json::to_writer(&mut self.buffer, line).expect("lines have string keys only");
        self.buffer.push(b'\n');
    }

    fn push_step(&mut self, delta: &Delta) {
        let line = self.job.line(delta);
        let is_call = |event: &&OutputEvent| matches!(event, OutputEvent::ToolCallStart { .. });
        self.job.num_calls += delta.events.iter().filter(is_call).count();
        self.push(&line);
    }

    /// Lines that are ready together; `None` after the last one.
    async fn next_frame(&mut self) -> Option<Bytes> {
        while self.buffer.is_empty() && !self.is_over {
            let event = self.generation.next().await;
            self.take(event);
        }
        while self.buffer.len() < MAX_FRAME_BYTES && !self.is_over {
            let Some(event) = self.generation.next().now_or_never() else { break };
            self.take(event);
        }
        (!self.buffer.is_empty()).then(|| Bytes::from(std::mem::take(&mut self.buffer)))
    }

    fn take(&mut self, event: Option<(usize, ChoiceEvent)>) {
        match event {
            None => self.is_over = true,
            Some((_, ChoiceEvent::Started(started))) => self.job.clock.take_started(&started),
            Some((_, ChoiceEvent::Failed(error))) => {
                self.push(&OllamaError(error).body());
                self.is_over = true;
            }
            Some((_, ChoiceEvent::Delta(delta))) if delta.finish.is_none() => {
                self.job.keep_context(&delta.tokens);
                self.push_step(&delta);
            }
            Some((_, ChoiceEvent::Delta(delta))) => {
                // Clients take the text of the last line for empty.
                let last = Delta { finish: delta.finish.clone(), ..Delta::default() };
                let has_text = !delta.text.is_empty() || !delta.events.is_empty();
                if has_text || (self.job.logprobs && !delta.tokens.is_empty()) {
                    self.push_step(&delta);
                }
                self.job.keep_context(&delta.tokens);
                let line = self.job.last_line(&last, self.generation.usage());
                self.push(&line);
                self.is_over = true;
            }
        }
    }
}

/// The body owns the generation: dropping the response cancels it.
fn stream_lines(feed: Feed) -> Response {
    let frames = stream::unfold(feed, async |mut feed| {
        let frame = feed.next_frame().await?;
        Some((frame, feed))
    });
    let frames = AssertUnwindSafe(frames).catch_unwind().map(|frame| {
        Ok::<_, Infallible>(frame.unwrap_or_else(|_| {
            let error = OllamaError(ApiError::internal("the stream failed"));
            Bytes::from(format!("{}\n", error.body()))
        }))
    });
    lines_response(Body::from_stream(frames))
}

/// A response whose body is lines of JSON.
pub(super) fn lines_response(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    // Proxies that buffer would hold tokens back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
