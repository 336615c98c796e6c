//! Traces of requests (`--otlp-traces-endpoint`): one span of the server and three in it, for the queue, the prompt and the answer.
//!
//! Names and attributes are those of OpenTelemetry's conventions for generative AI, and vLLM's where they have none. No span has a
//! word of a prompt or an answer.

mod context;
mod export;
pub mod messages;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quire_engine::request::SamplingParams;

pub(crate) use context::TraceParent;
pub use export::Exporter;
use messages::{
    AnyValue, KIND_INTERNAL, KIND_SERVER, KeyValue, List, STATUS_ERROR, Span, Status, Value,
    attribute,
};

/// A request in the making; dropped, its spans are sent.
pub(crate) struct Recording {
    exporter: Exporter,
    parent: Option<TraceParent>,
    operation: &'static str,
    model: String,
    attributes: Vec<KeyValue>,
    arrival: Instant,
    /// Of the first answer: how long it waited, and when its first token came.
    begun: Option<(Duration, Instant)>,
    finish_reasons: Vec<&'static str>,
    /// What it failed with.
    error: Option<String>,
    usage: (u64, u64, u64),
}

impl Recording {
    /// `None`: nobody wants to know. A caller that does not record its own trace does not get ours.
    pub(crate) fn begin(
        exporter: Option<&Exporter>,
        parent: Option<TraceParent>,
        (operation, model): (&'static str, &str),
        arrival: Instant,
    ) -> Option<Self> {
        let exporter = exporter.filter(|_| parent.is_none_or(|parent| parent.is_sampled))?.clone();
        Some(Self {
            exporter,
            parent,
            operation,
            model: model.to_owned(),
            attributes: Vec::new(),
            arrival,
            begun: None,
            finish_reasons: Vec::new(),
            error: None,
            usage: (0, 0, 0),
        })
    }

    /// What was asked for.
    pub(crate) fn asked(&mut self, params: &SamplingParams, num_answers: u32) {
        let number = |value: f32| Value::Number(f64::from(value));
        let integer = |value: u32| Value::Integer(i64::from(value));
        let mut add = |key: &str, value| self.attributes.push(attribute(key, value));
        add("gen_ai.request.temperature", number(params.temperature));
        add("gen_ai.request.top_p", number(params.top_p));
        if params.top_k > 0 {
            add("gen_ai.request.top_k", integer(params.top_k));
        }
        if let Some(max_tokens) = params.max_tokens {
            add("gen_ai.request.max_tokens", integer(max_tokens));
        }
        if let Some(seed) = params.seed {
            add("gen_ai.request.seed", Value::Integer(seed as i64));
        }
        if num_answers > 1 {
            add("gen_ai.request.choice.count", integer(num_answers));
        }
    }

    /// An answer has its first token, after it waited for `queue`.
    pub(crate) fn started(&mut self, queue: Duration) {
        self.begun.get_or_insert((queue, Instant::now()));
    }

    pub(crate) fn finished(&mut self, reason: &'static str) {
        self.finish_reasons.push(reason);
    }

    pub(crate) fn failed(&mut self, error: &str) {
        self.error = Some(error.to_owned());
    }

    /// Tokens of the prompts, of the answers, and of the prompts those that were cached.
    pub(crate) fn used(&mut self, usage: (u64, u64, u64)) {
        self.usage = usage;
    }

    fn spans(&mut self) -> Vec<Span> {
        let end = Instant::now();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix = |time: Instant| {
            now.saturating_sub(end.saturating_duration_since(time)).as_nanos() as u64
        };
        let trace_id =
            self.parent.map_or_else(|| *uuid::Uuid::new_v4().as_bytes(), |it| it.trace_id);
        let root = Span {
            trace_id: trace_id.to_vec(),
            span_id: span_id(),
            parent_span_id: self.parent.map_or_else(Vec::new, |parent| parent.span_id.to_vec()),
            name: format!("{} {}", self.operation, self.model),
            kind: KIND_SERVER,
            start_time_unix_nano: unix(self.arrival),
            end_time_unix_nano: unix(end),
            attributes: self.all_attributes(end),
            status: self.error.take().map(|message| Status { message, code: STATUS_ERROR }),
        };
        let part = |name: &str, from: Instant, to: Instant| Span {
            trace_id: trace_id.to_vec(),
            span_id: span_id(),
            parent_span_id: root.span_id.clone(),
            name: name.to_owned(),
            kind: KIND_INTERNAL,
            start_time_unix_nano: unix(from),
            end_time_unix_nano: unix(to),
            ..Span::default()
        };
        let parts = match self.begun {
            None => vec![part("queue", self.arrival, end)],
            Some((queue, first)) => {
                let scheduled = (self.arrival + queue).min(first);
                vec![
                    part("queue", self.arrival, scheduled),
                    part("prefill", scheduled, first),
                    part("decode", first, end),
                ]
            }
        };
        std::iter::once(root).chain(parts).collect()
    }

    fn all_attributes(&mut self, end: Instant) -> Vec<KeyValue> {
        let text = |text: &str| Value::Text(text.to_owned());
        let mut all = std::mem::take(&mut self.attributes);
        let mut add = |key: &str, value| all.push(attribute(key, value));
        add("gen_ai.operation.name", text(self.operation));
        add("gen_ai.provider.name", text("quire"));
        add("gen_ai.request.model", text(&self.model));
        add("gen_ai.response.model", text(&self.model));
        let (prompt, output, cached) = self.usage;
        add("gen_ai.usage.input_tokens", Value::Integer(prompt as i64));
        add("gen_ai.usage.output_tokens", Value::Integer(output as i64));
        add("gen_ai.usage.cache_read.input_tokens", Value::Integer(cached as i64));
        if !self.finish_reasons.is_empty() {
            let reasons = self.finish_reasons.iter().map(|reason| AnyValue::from(text(reason)));
            let values = reasons.collect();
            add("gen_ai.response.finish_reasons", Value::List(List { values }));
        }
        if let Some(error) = &self.error {
            add("error.type", text(error));
        }
        let seconds = |time: Duration| Value::Number(time.as_secs_f64());
        add("gen_ai.latency.e2e", seconds(end - self.arrival));
        if let Some((queue, first)) = self.begun {
            let to_first = first - self.arrival;
            add("gen_ai.latency.time_in_queue", seconds(queue));
            add("gen_ai.latency.time_to_first_token", seconds(to_first));
            add("gen_ai.latency.time_in_model_prefill", seconds(to_first.saturating_sub(queue)));
            add("gen_ai.latency.time_in_model_decode", seconds(end - first));
        }
        all
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let spans = self.spans();
        self.exporter.send(spans);
    }
}

fn span_id() -> Vec<u8> {
    uuid::Uuid::new_v4().as_bytes()[8..].to_vec()
}
