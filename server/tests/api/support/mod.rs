//! A server under test: the real router over a scripted engine, and ways to talk to it.

mod model;
mod real;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use quire_engine::EngineHandle;
use quire_engine::handle::{EngineInfo, EngineQueue, SchedulerStats, Submission};
use quire_engine::request::{
    FinishReason, Finished, Started, StreamEvent, TokenLogprobs, TokenOutput,
};
use quire_engine::validate::{RequestLimits, Tasks};
use quire_server::app::{self, AppState, ServerConfig, SharedState};
use quire_server::metrics::Metrics;
use quire_server::serve::Listeners;
use serde_json::{Value, json};
use tower::ServiceExt;

pub(crate) use model::{
    END, FIRST_CONTROL, START, bytes_as_tokens, model_with, served_model, text_of,
};
pub(crate) use real::serve_tiny;

/// The router with its state; the engine behind it is a script, or the test itself.
pub(crate) struct TestServer {
    pub state: SharedState,
    pub router: Router,
}

/// What a request was answered.
pub(crate) struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

/// What the engine does with a request.
pub(crate) type Script = fn(&quire_engine::Request) -> Vec<StreamEvent>;

pub(crate) fn engine_info() -> EngineInfo {
    let tasks = Tasks {
        generates: true,
        hidden_size: 4,
        max_embedded_len: 199,
        no_embeddings: None,
        scores: None,
    };
    let limits = RequestLimits {
        vocab_size: 300,
        max_model_len: 200,
        max_logprobs: 5,
        max_token_list: 8,
        tasks,
    };
    EngineInfo {
        limits,
        max_num_queued: 16,
        max_num_seqs: 8,
        max_num_batched_tokens: 256,
        block_size: 16,
        num_blocks: 100,
    }
}

pub(crate) fn config() -> ServerConfig {
    let mut config = ServerConfig {
        served_model_names: vec!["tiny".into(), "alias".into()],
        ..ServerConfig::default()
    };
    config.limits.max_body_bytes = 64 << 10;
    config.limits.max_n = 8;
    config.limits.max_prompts = 4;
    config.limits.max_messages = 8;
    config
}

/// Returns once `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Without gRPC.
pub(crate) fn http_only(http: tokio::net::TcpListener) -> Listeners {
    Listeners { http, grpc: None, grpc_tls: None }
}

impl TestServer {
    /// No model yet.
    pub(crate) fn loading(config: ServerConfig) -> Self {
        let state = AppState::new(config, Metrics::install());
        let router = app::router(Arc::clone(&state), false);
        Self { state, router }
    }

    /// Every request is answered by `script`.
    pub(crate) fn scripted(script: Script) -> Self {
        Self::scripted_as(engine_info(), script)
    }

    /// As [`Self::scripted`], of an engine that can do what `info` says.
    pub(crate) fn scripted_as(info: EngineInfo, script: Script) -> Self {
        let (server, queue) = Self::with_queue(config(), info);
        thread::spawn(move || {
            while let Ok(submission) = queue.recv() {
                queue.publish(SchedulerStats::default());
                run(&submission, script);
            }
        });
        server
    }

    /// As [`Self::scripted`], of a model with another template and more control tokens, from [`FIRST_CONTROL`] on.
    pub(crate) fn scripted_with(template: &str, control: &[&str], script: Script) -> Self {
        let server = Self::loading(config());
        let mut info = engine_info();
        info.limits.max_model_len = 2000;
        let (handle, queue) = EngineHandle::new(info);
        server.state.set_model(model_with(handle, template, control));
        thread::spawn(move || {
            while let Ok(submission) = queue.recv() {
                queue.publish(SchedulerStats::default());
                run(&submission, script);
            }
        });
        server
    }

    /// The test is the engine.
    pub(crate) fn with_queue(config: ServerConfig, info: EngineInfo) -> (Self, EngineQueue) {
        let server = Self::loading(config);
        let (handle, queue) = EngineHandle::new(info);
        server.state.set_model(served_model(handle));
        (server, queue)
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_text(path, body.to_string()).await
    }

    pub(crate) async fn post_text(&self, path: &str, body: impl Into<Body>) -> Reply {
        self.send(json_request(Method::POST, path).body(body.into()).unwrap()).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(bytes.into()).unwrap();
        Reply { status: parts.status, headers: parts.headers, body }
    }
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The body with fixed ids and times, for snapshots.
    pub(crate) fn pretty(&self) -> String {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        format!("{:#}\n", stable(self.json()))
    }

    /// The chunks of a stream. Every event must be `data:` with JSON, the last one `[DONE]`.
    pub(crate) fn chunks(&self) -> Vec<Value> {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        let mut events: Vec<&str> = self.body.split_terminator("\n\n").collect();
        assert_eq!(events.pop(), Some("data: [DONE]"));
        let parse = |event: &str| {
            let data = event.strip_prefix("data: ").unwrap_or_else(|| panic!("no data: {event}"));
            serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data}"))
        };
        events.into_iter().map(parse).collect()
    }

    /// The chunks with fixed ids and times, one a line.
    pub(crate) fn stable_chunks(&self) -> String {
        let lines: Vec<String> =
            self.chunks().into_iter().map(|chunk| stable(chunk).to_string()).collect();
        lines.join("\n") + "\n"
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) fn json_request(method: Method, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header("content-type", "application/json")
}

fn stable(mut body: Value) -> Value {
    let prefix = body["id"].as_str().unwrap().split('-').next().unwrap().to_owned();
    body["id"] = json!(format!("{prefix}-ID"));
    assert!(body["created"].as_u64().unwrap() > 1_700_000_000);
    body["created"] = json!(0);
    body
}

/// Answers with `text` and the end token, cut at `max_tokens`.
pub(crate) fn answer(request: &quire_engine::Request, text: &str) -> Vec<StreamEvent> {
    answer_tokens(request, &bytes_as_tokens(text), FinishReason::EndToken)
}

/// Answers with `tokens`; an end token follows where that is the reason to finish.
pub(crate) fn answer_tokens(
    request: &quire_engine::Request,
    tokens: &[u32],
    reason: FinishReason,
) -> Vec<StreamEvent> {
    let params = &request.params;
    let mut tokens = tokens.to_vec();
    if reason == FinishReason::EndToken {
        tokens.push(END);
    }
    let limit = params.max_tokens.map_or(usize::MAX, |max| max as usize);
    let reason = if tokens.len() > limit { FinishReason::Length } else { reason };
    tokens.truncate(limit);
    let known = |token: u32, count: u32| {
        let top = (0..count).map(|i| ((token + i) % 300, -0.5 - i as f32)).collect();
        TokenLogprobs { logprob: -0.5, rank: 1, top }
    };
    let prompt_logprobs = params.prompt_logprobs.map_or(Vec::new(), |count| {
        let rest = request.prompt[1..].iter().map(|&token| Some(known(token, count)));
        std::iter::once(None).chain(rest).collect()
    });
    let mut events = vec![StreamEvent::Started(Started {
        num_cached_tokens: 2,
        prompt_logprobs,
        ..Started::default()
    })];
    events.extend(tokens.iter().map(|&token| {
        let logprobs = params.logprobs.map(|count| known(token, count));
        StreamEvent::Token(TokenOutput { token, logprobs })
    }));
    events.push(StreamEvent::Finished(Finished {
        reason,
        num_prompt_tokens: request.prompt.len() as u32,
        num_output_tokens: tokens.len() as u32,
        num_cached_tokens: 2,
    }));
    events
}

fn run(submission: &Submission, script: Script) {
    for event in script(&submission.request) {
        if !submission.events.send(event) {
            return;
        }
    }
}

/// `Started` without anything cached.
pub(crate) fn started() -> StreamEvent {
    StreamEvent::Started(Started::default())
}

pub(crate) fn token(token: u32) -> StreamEvent {
    StreamEvent::Token(TokenOutput { token, logprobs: None })
}
