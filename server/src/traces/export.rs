//! Sends spans to a collector: OTLP over HTTP with protobuf, from a thread of its own. A collector that is gone costs nothing but spans.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use ::metrics::{Counter, counter};
use anyhow::{Context, Result, ensure};
use prost::Message;
use ureq::Agent;

use super::messages::{
    ExportRequest, Resource, ResourceSpans, Scope, ScopeSpans, Span, Value, attribute,
};

/// Traces that wait to be sent; further ones are dropped.
const MAX_WAITING: usize = 2048;
/// Spans in one message, about.
const MAX_BATCH: usize = 512;
const BATCH_TIME: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);
/// After a failure nothing is sent for so long.
const PAUSE: Duration = Duration::from_secs(5);

enum Job {
    Trace(Vec<Span>),
    /// Send what there is, and say so.
    Flush(Sender<()>),
}

/// The way to the collector. Cheap to clone.
#[derive(Clone)]
pub struct Exporter {
    queue: SyncSender<Job>,
    dropped: Counter,
}

struct Sending {
    agent: Agent,
    url: String,
    queue: Receiver<Job>,
    exported: Counter,
    dropped: Counter,
    /// Until when a failed collector is left alone.
    paused_until: Option<Instant>,
}

impl Exporter {
    /// To `endpoint`, as `http://collector:4318`; without a path it gets OTLP's own, `/v1/traces`.
    pub fn start(endpoint: &str) -> Result<Self> {
        let scheme = endpoint.split_once("://");
        let rest = scheme.filter(|(scheme, _)| ["http", "https"].contains(scheme)).map(|it| it.1);
        let rest = rest.filter(|rest| !rest.is_empty());
        ensure!(rest.is_some(), "--otlp-traces-endpoint {endpoint}: write http://HOST:4318");
        let has_path = rest.is_some_and(|rest| rest.trim_end_matches('/').contains('/'));
        let base = endpoint.trim_end_matches('/');
        let url = if has_path { base.to_owned() } else { format!("{base}/v1/traces") };
        let (queue, jobs) = sync_channel(MAX_WAITING);
        let count = |result: &'static str| counter!("quire_spans_total", "result" => result);
        let (exported, dropped) = (count("exported"), count("dropped"));
        exported.absolute(0);
        dropped.absolute(0);
        let config = Agent::config_builder().timeout_global(Some(TIMEOUT)).build();
        let agent = Agent::new_with_config(config);
        let mut sending = Sending {
            agent,
            url,
            queue: jobs,
            exported,
            dropped: dropped.clone(),
            paused_until: None,
        };
        let thread = Builder::new().name("quire-traces".into());
        thread.spawn(move || sending.run()).context("the thread of traces cannot be started")?;
        Ok(Self { queue, dropped })
    }

    /// Never waits.
    pub(super) fn send(&self, trace: Vec<Span>) {
        let num_spans = trace.len() as u64;
        if self.queue.try_send(Job::Trace(trace)).is_err() {
            self.dropped.increment(num_spans);
        }
    }

    /// Waits a little until what was sent has gone.
    pub fn flush(&self) {
        let (sender, done) = channel();
        if self.queue.try_send(Job::Flush(sender)).is_ok() {
            let _ = done.recv_timeout(TIMEOUT);
        }
    }
}

impl Sending {
    /// Until every sender is gone.
    fn run(&mut self) {
        while let Ok(job) = self.queue.recv() {
            let deadline = Instant::now() + BATCH_TIME;
            let (mut spans, mut waiting) = (Vec::new(), None);
            let mut next = Some(job);
            while let Some(job) = next.take() {
                match job {
                    Job::Trace(trace) => spans.extend(trace),
                    Job::Flush(sender) => {
                        waiting = Some(sender);
                        break;
                    }
                }
                if spans.len() < MAX_BATCH {
                    let left = deadline.saturating_duration_since(Instant::now());
                    next = self.queue.recv_timeout(left).ok();
                }
            }
            self.post(spans);
            if let Some(waiting) = waiting {
                let _ = waiting.send(());
            }
        }
    }

    fn post(&mut self, spans: Vec<Span>) {
        let num_spans = spans.len() as u64;
        if num_spans == 0 {
            return;
        }
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            self.dropped.increment(num_spans);
            return;
        }
        let body = export_request(spans).encode_to_vec();
        let request = self.agent.post(&self.url).header("content-type", "application/x-protobuf");
        match request.send(body.as_slice()) {
            Ok(_) => {
                if self.paused_until.take().is_some() {
                    tracing::info!("traces are sent again");
                }
                self.exported.increment(num_spans);
            }
            Err(error) => {
                if self.paused_until.is_none() {
                    tracing::warn!("traces are dropped until {} takes them: {error}", self.url);
                }
                self.paused_until = Some(Instant::now() + PAUSE);
                self.dropped.increment(num_spans);
            }
        }
    }
}

fn export_request(spans: Vec<Span>) -> ExportRequest {
    let text = |text: &str| Value::Text(text.to_owned());
    let version = env!("CARGO_PKG_VERSION");
    let resource = Resource {
        attributes: vec![
            attribute("service.name", text("quire")),
            attribute("service.version", text(version)),
        ],
    };
    let scope = Scope { name: "quire".into(), version: version.into() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
    let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans }];
    ExportRequest { resource_spans }
}
