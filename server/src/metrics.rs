//! The Prometheus recorder, and what the front-ends record under fixed label values.

mod buckets;
mod help;
mod process;

use std::sync::OnceLock;
use std::time::Duration;

use ::metrics::{counter, gauge, histogram};
use axum::http::{Method, StatusCode};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use quire_engine::EngineInfo;

use crate::app::{Health, ROUTES, unix_time};
use buckets::BUCKETS;

/// Renders what was recorded. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    /// Seconds since 1970.
    process_start: u64,
}

/// The label `handler` of paths outside the table.
const OTHER: &str = "other";
const METHODS: &[&str] = &["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"];

impl Metrics {
    /// Installs the process's one recorder; later calls return the same.
    ///
    /// # Panics
    /// If something else has installed a recorder: a mistake of the program.
    pub fn install() -> Self {
        static INSTALLED: OnceLock<Metrics> = OnceLock::new();
        INSTALLED
            .get_or_init(|| {
                let mut builder = PrometheusBuilder::new();
                for (name, bounds) in BUCKETS {
                    let matcher = Matcher::Full((*name).into());
                    builder = builder
                        .set_buckets_for_metric(matcher, bounds)
                        .expect("no list of boundaries is empty");
                }
                let recorder = builder.build_recorder();
                let handle = recorder.handle();
                ::metrics::set_global_recorder(recorder).expect("the only recorder");
                help::describe();
                create_series();
                Self { handle, process_start: unix_time() }
            })
            .clone()
    }

    /// The exposition text, format 0.0.4.
    pub fn render(&self) -> String {
        let mut text = self.handle.render();
        process::render(self.process_start, &mut text);
        text
    }

    /// Moves recorded samples into buckets; wanted every few seconds, or they pile up until the next scrape.
    pub fn run_upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// Counts one request.
pub fn record_http(
    handler: &'static str,
    method: &'static str,
    status: StatusCode,
    took: Duration,
) {
    let status = status_class(status);
    counter!("http_requests_total", "handler" => handler, "method" => method, "status" => status)
        .increment(1);
    histogram!("http_request_duration_seconds", "handler" => handler, "method" => method)
        .record(took.as_secs_f64());
    histogram!("http_request_duration_highr_seconds").record(took.as_secs_f64());
}

/// Bytes of a request's body, as far as it was read.
pub(crate) fn record_request_size(num_bytes: u64) {
    histogram!("http_request_size_bytes").record(num_bytes as f64);
}

/// Bytes of a response's body, as far as it was sent.
pub(crate) fn record_response_size(num_bytes: u64) {
    histogram!("http_response_size_bytes").record(num_bytes as f64);
}

/// Says how the server is at the time of a scrape. `turn`: how long the engine's present turn takes already.
pub(crate) fn record_state(health: Health, turn: Duration, num_in_flight: usize) {
    for (state, name) in Health::NAMES {
        gauge!("quire_state", "state" => name).set(if state == health { 1.0 } else { 0.0 });
    }
    gauge!("quire_engine_turn_seconds").set(turn.as_secs_f64());
    gauge!("quire_requests_in_flight").set(num_in_flight as f64);
}

/// Lines of the log that were not written.
pub(crate) fn log_lines_dropped() -> ::metrics::Counter {
    counter!("quire_log_lines_dropped_total")
}

/// Says how long the model took to load.
pub(crate) fn record_model_load(took: Duration) {
    gauge!("quire_model_load_seconds").set(took.as_secs_f64());
}

/// Records the length of the longest of the answers to one prompt.
pub(crate) fn record_longest_answer(model_name: &str, num_tokens: u32) {
    let labels = [("model_name", model_name.to_owned()), ("engine", "0".to_owned())];
    histogram!("vllm:request_max_num_generation_tokens", &labels).record(f64::from(num_tokens));
}

/// Counts one gRPC call; the names of its method must be of `grpc::METHODS`.
pub(crate) fn record_grpc(
    service: &'static str,
    method: &'static str,
    code: tonic::Code,
    took: Duration,
) {
    let code = format!("{code:?}");
    counter!(
        "grpc_server_handled_total",
        "grpc_service" => service, "grpc_method" => method, "grpc_code" => code
    )
    .increment(1);
    histogram!(
        "grpc_server_handling_seconds",
        "grpc_service" => service, "grpc_method" => method
    )
    .record(took.as_secs_f64());
}

/// Fixed numbers of each of a model's engines as labels of one series, and their refusals at 0.
pub fn describe_engines(model_name: &str, num_engines: usize, info: &EngineInfo) {
    for engine in 0..num_engines {
        gauge!(
            "vllm:cache_config_info",
            "model_name" => model_name.to_owned(),
            "engine" => engine.to_string(),
            "block_size" => info.block_size.to_string(),
            "num_gpu_blocks" => info.num_blocks.to_string(),
            "max_model_len" => info.limits.max_model_len.to_string(),
            "max_num_seqs" => info.max_num_seqs.to_string(),
            "max_num_batched_tokens" => info.max_num_batched_tokens.to_string(),
        )
        .set(1.0);
    }
    admission_rejections(model_name).absolute(0);
}

/// 1 while the model is in memory.
pub(crate) fn model_loaded(model_name: &str) -> ::metrics::Gauge {
    gauge!("quire_model_loaded", "model_name" => model_name.to_owned())
}

/// How long the loads of a model took, and how many there were.
pub(crate) fn model_load_seconds(model_name: &str) -> ::metrics::Histogram {
    histogram!("quire_model_load_duration_seconds", "model_name" => model_name.to_owned())
}

/// Counts the `n` of one request.
pub fn record_num_choices(model_name: &str, n: u32) {
    let labels = [("model_name", model_name.to_owned()), ("engine", "0".to_owned())];
    histogram!("vllm:request_params_n", &labels).record(f64::from(n));
}

/// Requests refused because the queue was full.
pub fn admission_rejections(model_name: &str) -> ::metrics::Counter {
    let labels =
        [("model_name", model_name.to_owned()), ("reason", "max_num_queued_reqs".to_owned())];
    counter!("vllm:admission_rejections_total", &labels)
}

/// The pattern of a route, or one word for all other paths.
pub fn route_label(pattern: Option<&str>) -> &'static str {
    ROUTES.iter().find(|route| Some(route.path) == pattern).map_or(OTHER, |route| route.path)
}

pub fn method_label(method: &Method) -> &'static str {
    METHODS.iter().find(|known| method.as_str() == **known).copied().unwrap_or(OTHER)
}

fn status_class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500..600 => "5xx",
        _ => OTHER,
    }
}

/// Series exist from the start, so that a rate never begins with a gap.
fn create_series() {
    for route in ROUTES {
        let method = method_label(&route.method);
        for status in ["2xx", "4xx", "5xx"] {
            let labels = [("handler", route.path), ("method", method), ("status", status)];
            counter!("http_requests_total", &labels).absolute(0);
        }
    }
    log_lines_dropped().absolute(0);
    gauge!("quire_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}
