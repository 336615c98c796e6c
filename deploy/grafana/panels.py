"""THE table of panels: what the dashboards show. `deploy/generate.py` makes the JSON; a live test runs every query."""

from typing import NamedTuple

# Chosen by the variables at the top of a dashboard; and the interval that Grafana thinks fit for the time shown.
SCOPE = 'job=~"$job",instance=~"$instance"'
MODEL = SCOPE + ',model_name=~"$model_name"'
WINDOW = "$__rate_interval"


class Panel(NamedTuple):
    """One panel. `queries`: pairs of PromQL and legend. `width`: of 24 columns. `unit`: Grafana's name of it."""

    title: str
    description: str
    unit: str
    queries: list
    kind: str = "timeseries"  # or stat, heatmap, stack
    width: int = 8


class Row(NamedTuple):
    title: str
    panels: list


class Dashboard(NamedTuple):
    uid: str
    title: str
    rows: list


def rate(metric, labels="", by=""):
    """Of a counter, a second, over all servers shown."""
    scope = MODEL if metric.startswith("vllm:") else SCOPE
    scope += f",{labels}" if labels else ""
    grouped = f" by ({by}) " if by else ""
    return f"sum{grouped}(rate({metric}{{{scope}}}[{WINDOW}]))"


def within(histogram, bound):
    """The share of a histogram's observations up to `bound`, one of its boundaries."""
    good = rate(f"{histogram}_bucket", f'le="{bound}"')
    return f"{good} / {rate(f'{histogram}_count')}"


def gauge(metric, by="instance", labels=""):
    scope = MODEL if metric.startswith("vllm:") else SCOPE
    scope += f",{labels}" if labels else ""
    return f"sum by ({by}) ({metric}{{{scope}}})"


def quantiles(histogram, shares=(0.5, 0.9, 0.99), labels=""):
    """The queries of a latency panel: some quantiles and the mean."""
    buckets = rate(f"{histogram}_bucket", labels, by="le")
    queries = [(f"histogram_quantile({share}, {buckets})", f"p{share * 100:g}") for share in shares]
    mean = f"{rate(f'{histogram}_sum', labels)} / {rate(f'{histogram}_count', labels)}"
    return [*queries, (mean, "mean")]


def heatmap(title, description, histogram):
    return Panel(title, description, "short", [(rate(f"{histogram}_bucket", by="le"), "{{le}}")], "heatmap")


CHATS = 'handler=~"/v1/.*",method="POST"'

SERVICE = Dashboard("quire-service", "Quire: service", [
    Row("At a glance", [
        Panel("Servers that answer", "Targets whose last scrape succeeded.", "short",
              [('sum(up{job=~"$job",instance=~"$instance"})', "up")], "stat", 3),
        Panel("States", "How many servers are in which.", "short",
              [(f"count by (state) (quire_state{{{SCOPE}}} == 1)", "{{state}}")], "stat", 3),
        Panel("Running", "Requests that get tokens now.", "short", [(f"sum(vllm:num_requests_running{{{MODEL}}})", "running")], "stat", 3),
        Panel("Waiting", "Requests in the queue now.", "short", [(f"sum(vllm:num_requests_waiting{{{MODEL}}})", "waiting")], "stat", 3),
        Panel("Tokens a second", "Generated, all servers together.", "short",
              [(rate("vllm:generation_tokens_total"), "generated")], "stat", 4),
        Panel("First tokens within 2.5 s", "The objective is 99%.", "percentunit",
              [(within("vllm:time_to_first_token_seconds", 2.5), "in time")], "stat", 4),
        Panel("Gaps below 0.2 s", "The objective is 99%.", "percentunit",
              [(within("vllm:inter_token_latency_seconds", 0.2), "in time")], "stat", 4),
    ]),
    Row("What users feel", [
        Panel("Time to first token", "From arrival to the first token.", "s", quantiles("vllm:time_to_first_token_seconds")),
        Panel("Time between tokens", "All gaps of all requests.", "s", quantiles("vllm:inter_token_latency_seconds")),
        Panel("Whole requests", "From arrival to the last token.", "s", quantiles("vllm:e2e_request_latency_seconds")),
        Panel("Time in the queue", "From arrival to the first step.", "s", quantiles("vllm:request_queue_time_seconds")),
        Panel("Time for the prompt", "From the first step to the first token.", "s", quantiles("vllm:request_prefill_time_seconds")),
        Panel("Time for the answer", "From the first to the last token.", "s", quantiles("vllm:request_decode_time_seconds")),
    ]),
    Row("Budgets", [
        Panel("Late first tokens", "Share above the objective; above 1% the budget shrinks.", "percentunit",
              [('quire:first_token_late:ratio_rate5m{job=~"$job"}', "5m {{model_name}}"),
               ('quire:first_token_late:ratio_rate1h{job=~"$job"}', "1h {{model_name}}")]),
        Panel("Slow tokens", "Share of gaps above the objective; above 1% the budget shrinks.", "percentunit",
              [('quire:inter_token_late:ratio_rate5m{job=~"$job"}', "5m {{model_name}}"),
               ('quire:inter_token_late:ratio_rate1h{job=~"$job"}', "1h {{model_name}}")]),
        Panel("Errors", "Share of answers with 5xx; above 0.1% the budget shrinks.", "percentunit",
              [('quire:http_errors:ratio_rate5m{job=~"$job"}', "5m {{job}}"),
               ('quire:http_errors:ratio_rate1h{job=~"$job"}', "1h {{job}}")]),
    ]),
    Row("Traffic", [
        Panel("Requests by how they ended", "A second.", "reqps",
              [(rate("vllm:request_success_total", by="finished_reason"), "{{finished_reason}}")], "stack"),
        Panel("Answers by status", "HTTP, without probes and scrapes.", "reqps",
              [(rate("http_requests_total", 'handler=~"/v1/.*"', by="status"), "{{status}}")], "stack"),
        Panel("Refused", "Because the queue was full.", "reqps", [(rate("vllm:admission_rejections_total", by="reason"), "{{reason}}")]),
        heatmap("Prompt lengths", "Tokens of each request's prompt.", "vllm:request_prompt_tokens"),
        heatmap("Answer lengths", "Tokens of each request's answer.", "vllm:request_generation_tokens"),
        Panel("Time to the head of an answer", "HTTP; of streams this is the first token.", "s",
              quantiles("http_request_duration_seconds", labels=CHATS)),
    ]),
])

ENGINE = Dashboard("quire-engine", "Quire: engine", [
    Row("Scheduler", [
        Panel("Running and waiting", "Requests of each server.", "short",
              [(gauge("vllm:num_requests_running"), "running {{instance}}"), (gauge("vllm:num_requests_waiting"), "waiting {{instance}}")]),
        Panel("Steps a second", "Each computes some tokens of every running request.", "ops",
              [(rate("quire_scheduler_steps_total", by="instance"), "{{instance}}")]),
        Panel("Longest wait", "Of the requests that wait for their first step.", "s",
              [(f"max by (instance) (quire_oldest_waiting_seconds{{{MODEL}}})", "{{instance}}")]),
        heatmap("Tokens a step", "How full steps are.", "vllm:iteration_tokens_total"),
        Panel("Time of a step", "How long the engine waited for each.", "s", quantiles("quire_scheduler_step_seconds")),
        Panel("Present turn", "How long the engine's turn takes already; it grows while a step hangs.", "s",
              [(f"max by (instance) (quire_engine_turn_seconds{{{SCOPE}}})", "{{instance}}")]),
        Panel("Preemptions", "A second: requests that gave their blocks away and are computed again.", "ops",
              [(rate("vllm:num_preemptions_total", by="instance"), "{{instance}}")]),
        Panel("Steps that panicked", "A second.", "ops", [(rate("quire_failed_steps_total", by="instance"), "{{instance}}")]),
    ]),
    Row("Tokens", [
        Panel("Prompt tokens by source", "A second: computed, or found in the prefix cache.", "short",
              [(rate("vllm:prompt_tokens_by_source_total", by="source"), "{{source}}")], "stack"),
        Panel("Generated tokens", "A second.", "short", [(rate("vllm:generation_tokens_total", by="instance"), "{{instance}}")], "stack"),
        Panel("Time of an output token", "Mean of each request.", "s", quantiles("vllm:request_time_per_output_token_seconds")),
    ]),
    Row("KV cache", [
        Panel("Used", "Share of the blocks that running requests hold.", "percentunit",
              [(f"max by (instance, engine) (vllm:kv_cache_usage_perc{{{MODEL}}})", "{{instance}} {{engine}}")]),
        Panel("Prefix cache hits", "Share of the prompt tokens that were found.", "percentunit",
              [(f"{rate('vllm:prefix_cache_hits_total', by='instance')} / {rate('vllm:prefix_cache_queries_total', by='instance')}", "{{instance}}")]),
        Panel("Blocks by state", "Held by requests, kept for prompts to come, or empty.", "short",
              [(gauge("quire_kv_blocks", by="state"), "{{state}}")], "stack"),
        heatmap("Computed of prompts", "Tokens of each prompt that were not found in the prefix cache.", "vllm:request_prefill_kv_computed_tokens"),
        heatmap("Preemptions of a request", "How often each was computed again.", "vllm:request_num_preemptions"),
        Panel("Blocks", "How many there are, by their size in tokens.", "short",
              [(f'count by (instance, num_gpu_blocks, block_size) (vllm:cache_config_info{{{SCOPE}}})',
                "{{instance}}: {{num_gpu_blocks}} of {{block_size}}")], "stat"),
    ]),
    Row("What was asked for", [
        heatmap("max_tokens", "Of each request.", "vllm:request_params_max_tokens"),
        heatmap("n", "Answers of each request.", "vllm:request_params_n"),
        heatmap("Longest answer", "Tokens of the longest of the answers to one prompt.", "vllm:request_max_num_generation_tokens"),
        Panel("In flight", "Requests of clients whose answers are not finished.", "short", [(gauge("quire_requests_in_flight"), "{{instance}}")]),
        Panel("Time in steps", "Prompt and answer, without the queue.", "s", quantiles("vllm:request_inference_time_seconds")),
    ]),
    Row("Process", [
        Panel("Processors", "How many are busy.", "short", [(rate("process_cpu_seconds_total", by="instance"), "{{instance}}")]),
        Panel("Memory", "Resident.", "bytes", [(gauge("process_resident_memory_bytes"), "{{instance}}")]),
        Panel("Open files", "Connections are most of them; beside what the system allows.", "short",
              [(gauge("process_open_fds"), "{{instance}}"), (gauge("process_max_fds"), "limit {{instance}}")]),
        Panel("Time of a scrape", "Routers read /metrics as often as every 50 ms.", "s",
              [(f"max by (instance) (scrape_duration_seconds{{{SCOPE}}})", "{{instance}}")]),
        Panel("Running for", "Since the process began.", "s", [(f"time() - max by (instance) (process_start_time_seconds{{{SCOPE}}})", "{{instance}}")]),
        Panel("Loading", "From the start of the process until requests were taken.", "s",
              [(f"max by (instance) (quire_model_load_seconds{{{SCOPE}}})", "{{instance}}")], "stat"),
        Panel("Versions", "Servers of each.", "short", [(f"count by (version) (quire_build_info{{{SCOPE}}})", "{{version}}")], "stat"),
    ]),
])

DASHBOARDS = [SERVICE, ENGINE]
