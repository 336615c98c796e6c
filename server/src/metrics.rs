//! The Prometheus recorder: buckets, fixed label values, and what the process says of itself.

use std::fmt::Write;
use std::sync::OnceLock;
use std::time::Duration;

use ::metrics::{counter, describe_counter, describe_histogram, gauge, histogram};
use axum::http::{Method, StatusCode};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use quire_engine::EngineInfo;

use crate::app::{ROUTES, unix_time};

/// Renders what was recorded. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    /// Seconds since 1970.
    process_start: u64,
}

const REQUEST_LATENCY: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const INTER_TOKEN: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const ITERATION_TOKENS: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
const REQUEST_TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0,
    50000.0, 100000.0, 200000.0, 500000.0, 1000000.0,
];
const NUM_CHOICES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];
const PREEMPTIONS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0];
const HTTP_DURATION: &[f64] = &[0.1, 0.5, 1.0];

/// The boundaries of every histogram, vLLM's own where it has the metric.
const BUCKETS: &[(&str, &[f64])] = &[
    ("vllm:e2e_request_latency_seconds", REQUEST_LATENCY),
    ("vllm:request_queue_time_seconds", REQUEST_LATENCY),
    ("vllm:request_inference_time_seconds", REQUEST_LATENCY),
    ("vllm:request_prefill_time_seconds", REQUEST_LATENCY),
    ("vllm:request_decode_time_seconds", REQUEST_LATENCY),
    ("vllm:time_to_first_token_seconds", FIRST_TOKEN),
    ("vllm:inter_token_latency_seconds", INTER_TOKEN),
    ("vllm:time_per_output_token_seconds", INTER_TOKEN),
    ("vllm:request_time_per_output_token_seconds", INTER_TOKEN),
    ("vllm:iteration_tokens_total", ITERATION_TOKENS),
    ("vllm:request_prompt_tokens", REQUEST_TOKENS),
    ("vllm:request_generation_tokens", REQUEST_TOKENS),
    ("vllm:request_max_num_generation_tokens", REQUEST_TOKENS),
    ("vllm:request_params_max_tokens", REQUEST_TOKENS),
    ("vllm:request_prefill_kv_computed_tokens", REQUEST_TOKENS),
    ("vllm:request_params_n", NUM_CHOICES),
    ("vllm:request_num_preemptions", PREEMPTIONS),
    ("http_request_duration_seconds", HTTP_DURATION),
    ("grpc_server_handling_seconds", HTTP_DURATION),
];

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
                create_series();
                Self { handle, process_start: unix_time() }
            })
            .clone()
    }

    /// The exposition text, format 0.0.4.
    pub fn render(&self) -> String {
        let mut text = self.handle.render();
        self.render_process(&mut text);
        text
    }

    /// Moves recorded samples into buckets; wanted every few seconds, or they pile up until the next scrape.
    pub fn run_upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// Fixed numbers of each of the engines as labels of one series, and their refusals at 0.
    pub fn describe_engines(&self, model_name: &str, num_engines: usize, info: &EngineInfo) {
        for engine in 0..num_engines {
            gauge!(
                "vllm:cache_config_info",
                "engine" => engine.to_string(),
                "block_size" => info.block_size.to_string(),
                "num_gpu_blocks" => info.num_blocks.to_string(),
                "max_model_len" => info.limits.max_model_len.to_string(),
            )
            .set(1.0);
        }
        admission_rejections(model_name).absolute(0);
    }

    /// Names as of the Prometheus client libraries.
    fn render_process(&self, out: &mut String) {
        let mut metric = |name: &str, kind: &str, value: f64| {
            let _ = writeln!(out, "# TYPE {name} {kind}\n{name} {value}\n");
        };
        metric("process_start_time_seconds", "gauge", self.process_start as f64);
        if let Some(seconds) = cpu_seconds() {
            metric("process_cpu_seconds_total", "counter", seconds);
        }
        if let Some(bytes) = resident_bytes() {
            metric("process_resident_memory_bytes", "gauge", bytes);
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            metric("process_open_fds", "gauge", open.count() as f64);
        }
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
    describe_counter!("http_requests_total", "HTTP requests by route, method and status class.");
    describe_histogram!(
        "http_request_duration_seconds",
        "Time to the head of the response, by route and method."
    );
    for route in ROUTES {
        let method = method_label(&route.method);
        for status in ["2xx", "4xx", "5xx"] {
            let labels = [("handler", route.path), ("method", method), ("status", status)];
            counter!("http_requests_total", &labels).absolute(0);
        }
    }
    gauge!("quire_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// User and system time of the process.
fn cpu_seconds() -> Option<f64> {
    // Linux reports these in units of 1/100 s on every architecture (USER_HZ).
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold spaces; fields 14 and 15 are counted after it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}
