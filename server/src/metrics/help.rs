//! One line for each metric: what `# HELP` says.

use ::metrics::describe_gauge;

/// Of each metric its name and meaning. Of a request's times, the queue ends and the prompt begins with its first step.
const HELP: &[(&str, &str)] = &[
    ("vllm:num_requests_running", "Requests that get tokens now."),
    ("vllm:num_requests_waiting", "Requests in the queue now."),
    ("vllm:num_requests_waiting_by_reason", "Those by what they wait for; here always capacity."),
    ("vllm:engine_sleep_state", "Whether the engine is awake; here always."),
    ("vllm:kv_cache_usage_perc", "Share of the KV cache that running requests hold, 0 to 1."),
    ("vllm:cache_config_info", "Sizes of the KV cache and of steps, as labels."),
    ("vllm:num_preemptions_total", "Requests that gave their blocks away and are computed again."),
    ("vllm:prompt_tokens_total", "Tokens of prompts, cached ones included."),
    ("vllm:prompt_tokens_by_source_total", "Tokens of prompts, by where they came from."),
    ("vllm:prompt_tokens_cached_total", "Tokens of prompts that were found in the prefix cache."),
    ("vllm:prompt_tokens_cached_by_source_total", "Those, by the memory they were found in."),
    ("vllm:generation_tokens_total", "Generated tokens."),
    ("vllm:prefix_cache_queries_total", "Tokens that were looked up in the prefix cache."),
    ("vllm:prefix_cache_hits_total", "Tokens of these that were found."),
    ("vllm:request_success_total", "Requests that ended, by how."),
    ("vllm:corrupted_requests_total", "Requests that ended with an error of the engine."),
    ("vllm:admission_rejections_total", "Requests refused because a queue was full."),
    ("vllm:iteration_tokens_total", "Tokens of each step."),
    ("vllm:time_to_first_token_seconds", "From a request's arrival to its first token."),
    (
        "vllm:inter_token_latency_seconds",
        "From a step that brought tokens to the next one, of each request.",
    ),
    (
        "vllm:request_time_per_output_token_seconds",
        "Mean time of a request's tokens after the first.",
    ),
    ("vllm:e2e_request_latency_seconds", "From a request's arrival to its end."),
    ("vllm:request_queue_time_seconds", "From a request's arrival to its first step."),
    ("vllm:request_inference_time_seconds", "From a request's first step to its last token."),
    ("vllm:request_prefill_time_seconds", "From a request's first step to its first token."),
    ("vllm:request_decode_time_seconds", "From a request's first token to its last."),
    ("vllm:request_prompt_tokens", "Tokens of each request's prompt."),
    ("vllm:request_generation_tokens", "Tokens of each request's answer."),
    (
        "vllm:request_max_num_generation_tokens",
        "Tokens of the longest of the answers to one prompt.",
    ),
    (
        "vllm:request_prefill_kv_computed_tokens",
        "Tokens of each prompt that were not found in the prefix cache.",
    ),
    ("vllm:request_num_preemptions", "How often each request was preempted."),
    ("vllm:request_params_n", "The n of each request."),
    ("vllm:request_params_max_tokens", "The max_tokens of each request."),
    ("vllm:spec_decode_num_drafts_total", "Times that drafts of a request were verified."),
    ("vllm:spec_decode_num_draft_tokens_total", "Tokens of these drafts."),
    ("vllm:spec_decode_num_accepted_tokens_total", "Tokens of these that were right."),
    (
        "vllm:spec_decode_num_accepted_tokens_per_pos_total",
        "Those, by their position in the draft.",
    ),
    ("http_requests_total", "HTTP requests, by route, method and class of status."),
    ("http_request_duration_seconds", "Time to the head of the response, by route and method."),
    (
        "http_request_duration_highr_seconds",
        "Time to the head of the response, of all routes, in many buckets.",
    ),
    ("http_request_size_bytes", "Bytes of requests' bodies, as far as they were read."),
    ("http_response_size_bytes", "Bytes of responses' bodies, as far as they were sent."),
    ("grpc_server_handled_total", "gRPC calls that ended, by method and code."),
    ("grpc_server_handling_seconds", "Time of gRPC calls to the head of the response."),
    ("quire_build_info", "The version, as a label."),
    ("quire_state", "1 for the state that the server is in, 0 for the others."),
    ("quire_engine_turn_seconds", "How long the engine's present turn takes already; 0 when idle."),
    ("quire_requests_in_flight", "Requests of clients whose answers are not finished."),
    ("quire_model_load_seconds", "From the start of the process until requests were taken."),
    ("quire_model_loaded", "Whether the model is in memory."),
    ("quire_model_load_duration_seconds", "How long each load of a model on demand took."),
    (
        "quire_oldest_waiting_seconds",
        "How long the request that waits longest for its first step does.",
    ),
    (
        "quire_kv_blocks",
        "Blocks of the KV cache: held by requests, kept for prompts to come, or empty.",
    ),
    ("quire_scheduler_steps_total", "Steps."),
    ("quire_scheduler_step_seconds", "How long the engine waited for each step."),
    ("quire_tenant_requests_total", "Requests of each tenant that were taken."),
    ("quire_tenant_refused_total", "Requests of each tenant over a limit of its own, by which."),
    ("quire_tenant_tokens_total", "Tokens of each tenant's prompts and answers."),
    ("quire_tenant_requests_in_flight", "Requests of each tenant whose answers are not finished."),
    ("quire_tenant_answers_waiting", "Answers of each tenant without a first token."),
    ("quire_tenant_time_to_first_token_seconds", "From arrival to the first token, by tenant."),
    ("quire_keys_file_reloads_total", "Times that a changed keys file was read, by result."),
    (
        "quire_spans_total",
        "Spans that were sent to the collector, or dropped because it took none.",
    ),
    ("quire_preemptions_for_tenants_total", "Preemptions that gave a row to another tenant."),
    ("quire_doctor_check", "What quire doctor finds: 0 well, 1 a warning, 2 failing."),
    ("quire_keys_file_ok", "Whether the keys file is in force as it is now."),
    (
        "quire_log_lines_dropped_total",
        "Lines of the log that could not be written, or not soon enough.",
    ),
    (
        "quire_tls_certificate_ok",
        "Whether certificate and key of gRPC are in force as they are now.",
    ),
    (
        "quire_tls_certificate_reloads_total",
        "Times that a changed certificate or key was read, by result.",
    ),
    ("quire_kv_events_dropped_total", "Batches of cache events that found no room to be sent."),
    ("quire_failed_steps_total", "Steps that panicked and were computed again."),
];

/// Tells the recorder. It keeps one text for each name, whatever the kind.
pub(super) fn describe() {
    for &(name, text) in HELP {
        describe_gauge!(name, text);
    }
}
