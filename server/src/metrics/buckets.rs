//! Where the histograms' buckets end.

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
const MODEL_LOAD: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
const HTTP_DURATION: &[f64] = &[0.1, 0.5, 1.0];
const HTTP_DURATION_FINE: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0,
    7.5, 10.0, 30.0, 60.0,
];
const SIZE: &[f64] =
    &[256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0];
const STEP: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The boundaries of every histogram, vLLM's own where it has the metric.
pub(super) const BUCKETS: &[(&str, &[f64])] = &[
    ("vllm:e2e_request_latency_seconds", REQUEST_LATENCY),
    ("vllm:request_queue_time_seconds", REQUEST_LATENCY),
    ("vllm:request_inference_time_seconds", REQUEST_LATENCY),
    ("vllm:request_prefill_time_seconds", REQUEST_LATENCY),
    ("vllm:request_decode_time_seconds", REQUEST_LATENCY),
    ("vllm:time_to_first_token_seconds", FIRST_TOKEN),
    ("quire_tenant_time_to_first_token_seconds", FIRST_TOKEN),
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
    ("quire_model_load_duration_seconds", MODEL_LOAD),
    ("http_request_duration_seconds", HTTP_DURATION),
    ("http_request_size_bytes", SIZE),
    ("http_response_size_bytes", SIZE),
    ("http_request_duration_highr_seconds", HTTP_DURATION_FINE),
    ("quire_scheduler_step_seconds", STEP),
    ("grpc_server_handling_seconds", HTTP_DURATION),
];
