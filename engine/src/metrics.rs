//! The engine's Prometheus metrics, under vLLM's names so that its dashboards and autoscalers work unchanged.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use quire_scheduler::{DraftStats, SchedulerStats};

use crate::request::FinishReason;
use crate::view::{Journal, RequestState, RequestView};

/// Handles made once; recording never allocates.
pub struct EngineMetrics {
    num_requests_running: Gauge,
    num_requests_waiting: Gauge,
    num_waiting_capacity: Gauge,
    oldest_waiting: Gauge,
    kv_cache_usage: Gauge,
    kv_blocks: [Gauge; 3], // by BLOCK_STATES
    num_preemptions: Counter,
    num_preemptions_for_tenants: Counter,
    prompt_tokens: Counter,
    prompt_tokens_cached: Counter,
    prompt_tokens_cached_device: Counter,
    prompt_tokens_computed: Counter,
    prompt_tokens_hit: Counter,
    generation_tokens: Counter,
    prefix_cache_queries: Counter,
    prefix_cache_hits: Counter,
    finished: [Counter; 4], // by FINISHED_REASONS
    corrupted: Counter,
    steps: Counter,
    failed_steps: Counter,
    pub iteration_tokens: Histogram,
    pub step_seconds: Histogram,
    pub time_to_first_token: Histogram,
    pub inter_token_latency: Histogram,
    time_per_output_token: Histogram,
    e2e_latency: Histogram,
    queue_time: Histogram,
    inference_time: Histogram,
    prefill_time: Histogram,
    decode_time: Histogram,
    request_prompt_tokens: Histogram,
    request_generation_tokens: Histogram,
    request_prefill_computed: Histogram,
    request_params_max_tokens: Histogram,
    request_num_preemptions: Histogram,
    drafts: Option<DraftMetrics>,
    last: SchedulerStats,
    pub journal: Journal,
}

/// Of speculative decoding.
struct DraftMetrics {
    verified: Counter,
    tokens: Counter,
    right: Counter,
    right_by_position: Vec<Counter>,
}

impl DraftMetrics {
    /// `num_tokens`: the most drafts of a sequence in a step.
    fn new(labels: &[(&'static str, String); 2], num_tokens: u32) -> Self {
        let at = |position: u32| {
            let [model, engine] = labels.clone();
            let labels = [model, engine, ("position", position.to_string())];
            counter!("vllm:spec_decode_num_accepted_tokens_per_pos_total", &labels)
        };
        Self {
            verified: counter!("vllm:spec_decode_num_drafts_total", labels),
            tokens: counter!("vllm:spec_decode_num_draft_tokens_total", labels),
            right: counter!("vllm:spec_decode_num_accepted_tokens_total", labels),
            right_by_position: (0..num_tokens).map(at).collect(),
        }
    }

    fn update(&self, stats: &DraftStats, last: &DraftStats) {
        self.verified.increment(stats.num_verified - last.num_verified);
        self.tokens.increment(stats.num_tokens - last.num_tokens);
        let before_and_now = last.num_right.iter().zip(&stats.num_right);
        let new = before_and_now.map(|(before, now)| now - before);
        for (counter, new) in self.right_by_position.iter().zip(new) {
            counter.increment(new);
            self.right.increment(new);
        }
    }
}

const FINISHED_REASONS: [&str; 4] = ["stop", "length", "abort", "error"];

const BLOCK_STATES: [&str; 3] = ["used", "cached", "free"];

/// Tokens and preemptions of one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestCounts {
    pub prompt: u32,
    /// Of the prompt, those that were found in the prefix cache.
    pub cached: u32,
    pub output: u32,
    pub preemptions: u32,
    pub max_tokens: Option<u32>,
}

/// Times of one request, from its arrival to its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestTimes {
    pub e2e: Duration,
    pub queue: Duration,
    pub prefill: Duration,
    pub decode: Duration,
}

impl EngineMetrics {
    /// `engine`: which of several replicas. `num_speculative_tokens`: drafts of a sequence in a step, where tokens are guessed.
    pub fn new(model_name: &str, engine: usize, num_speculative_tokens: Option<u32>) -> Self {
        let labels = [("model_name", model_name.to_string()), ("engine", engine.to_string())];
        let with = |key: &'static str, value: &'static str| {
            let [model, engine] = labels.clone();
            [model, engine, (key, value.to_string())]
        };
        // What this engine never does reads 0, not absent.
        gauge!("vllm:num_requests_waiting_by_reason", &with("reason", "deferred")).set(0.0);
        for (state, value) in [("awake", 1.0), ("weights_offloaded", 0.0), ("discard_all", 0.0)] {
            gauge!("vllm:engine_sleep_state", &with("sleep_state", state)).set(value);
        }
        Self {
            num_requests_running: gauge!("vllm:num_requests_running", &labels),
            num_requests_waiting: gauge!("vllm:num_requests_waiting", &labels),
            num_waiting_capacity: gauge!(
                "vllm:num_requests_waiting_by_reason",
                &with("reason", "capacity")
            ),
            oldest_waiting: gauge!("quire_oldest_waiting_seconds", &labels),
            kv_cache_usage: gauge!("vllm:kv_cache_usage_perc", &labels),
            kv_blocks: BLOCK_STATES.map(|state| gauge!("quire_kv_blocks", &with("state", state))),
            num_preemptions: counter!("vllm:num_preemptions_total", &labels),
            num_preemptions_for_tenants: counter!("quire_preemptions_for_tenants_total", &labels),
            prompt_tokens: counter!("vllm:prompt_tokens_total", &labels),
            prompt_tokens_cached: counter!("vllm:prompt_tokens_cached_total", &labels),
            prompt_tokens_cached_device: counter!(
                "vllm:prompt_tokens_cached_by_source_total",
                &with("source", "device")
            ),
            prompt_tokens_computed: counter!(
                "vllm:prompt_tokens_by_source_total",
                &with("source", "local_compute")
            ),
            prompt_tokens_hit: counter!(
                "vllm:prompt_tokens_by_source_total",
                &with("source", "local_cache_hit")
            ),
            generation_tokens: counter!("vllm:generation_tokens_total", &labels),
            prefix_cache_queries: counter!("vllm:prefix_cache_queries_total", &labels),
            prefix_cache_hits: counter!("vllm:prefix_cache_hits_total", &labels),
            finished: FINISHED_REASONS.map(|reason| {
                counter!("vllm:request_success_total", &with("finished_reason", reason))
            }),
            corrupted: counter!("vllm:corrupted_requests_total", &labels),
            steps: counter!("quire_scheduler_steps_total"),
            failed_steps: counter!("quire_failed_steps_total"),
            iteration_tokens: histogram!("vllm:iteration_tokens_total", &labels),
            step_seconds: histogram!("quire_scheduler_step_seconds"),
            time_to_first_token: histogram!("vllm:time_to_first_token_seconds", &labels),
            inter_token_latency: histogram!("vllm:inter_token_latency_seconds", &labels),
            time_per_output_token: histogram!(
                "vllm:request_time_per_output_token_seconds",
                &labels
            ),
            e2e_latency: histogram!("vllm:e2e_request_latency_seconds", &labels),
            queue_time: histogram!("vllm:request_queue_time_seconds", &labels),
            inference_time: histogram!("vllm:request_inference_time_seconds", &labels),
            prefill_time: histogram!("vllm:request_prefill_time_seconds", &labels),
            decode_time: histogram!("vllm:request_decode_time_seconds", &labels),
            request_prompt_tokens: histogram!("vllm:request_prompt_tokens", &labels),
            request_generation_tokens: histogram!("vllm:request_generation_tokens", &labels),
            request_prefill_computed: histogram!(
                "vllm:request_prefill_kv_computed_tokens",
                &labels
            ),
            request_params_max_tokens: histogram!("vllm:request_params_max_tokens", &labels),
            request_num_preemptions: histogram!("vllm:request_num_preemptions", &labels),
            drafts: num_speculative_tokens.map(|num_tokens| DraftMetrics::new(&labels, num_tokens)),
            last: SchedulerStats::default(),
            journal: Journal::default(),
        }
    }

    /// A step was scheduled.
    pub fn step(&mut self, num_tokens: u32) {
        self.steps.increment(1);
        self.iteration_tokens.record(f64::from(num_tokens));
    }

    /// A step panicked.
    pub fn failed_step(&self) {
        self.failed_steps.increment(1);
    }

    /// The scheduler's figures now.
    pub fn scheduler(&mut self, stats: SchedulerStats) {
        self.num_requests_running.set(f64::from(stats.num_running));
        self.num_requests_waiting.set(f64::from(stats.num_waiting));
        self.num_waiting_capacity.set(f64::from(stats.num_waiting));
        let used = f64::from(stats.num_used_blocks) / f64::from(stats.num_blocks.max(1));
        self.kv_cache_usage.set(used);
        let idle = stats.num_blocks.saturating_sub(stats.num_used_blocks);
        let cached = stats.num_cached_free_blocks;
        let blocks = [stats.num_used_blocks, cached, idle.saturating_sub(cached)];
        for (gauge, count) in self.kv_blocks.iter().zip(blocks) {
            gauge.set(f64::from(count));
        }
        self.num_preemptions.increment(stats.num_preemptions - self.last.num_preemptions);
        self.num_preemptions_for_tenants
            .increment(stats.num_preemptions_for_tenants - self.last.num_preemptions_for_tenants);
        self.prefix_cache_queries
            .increment(stats.prefix_cache_queries - self.last.prefix_cache_queries);
        self.prefix_cache_hits.increment(stats.prefix_cache_hits - self.last.prefix_cache_hits);
        if let Some(drafts) = &self.drafts {
            drafts.update(&stats.drafts, &self.last.drafts);
        }
        self.last = stats;
    }

    /// How long the request that waits longest for its first step does.
    pub fn oldest_waiting(&self, time: Duration) {
        self.oldest_waiting.set(time.as_secs_f64());
    }

    /// A request's prompt is computed, all but `num_cached` tokens of it now.
    pub fn prompt(&mut self, num_prompt_tokens: u32, num_cached: u32) {
        self.journal.totals.num_prompt_tokens += u64::from(num_prompt_tokens);
        self.prompt_tokens.increment(u64::from(num_prompt_tokens));
        self.prompt_tokens_cached.increment(u64::from(num_cached));
        self.prompt_tokens_cached_device.increment(u64::from(num_cached));
        self.prompt_tokens_hit.increment(u64::from(num_cached));
        self.prompt_tokens_computed.increment(u64::from(num_prompt_tokens - num_cached));
    }

    pub fn generated(&mut self, num_tokens: u32) {
        self.journal.totals.num_generated_tokens += u64::from(num_tokens);
        self.generation_tokens.increment(u64::from(num_tokens));
    }

    /// A request ended.
    pub fn finish(&mut self, reason: &FinishReason, mut request: RequestView) {
        let index = match reason {
            FinishReason::EndToken | FinishReason::StopToken(_) | FinishReason::Embedded => 0,
            FinishReason::Length => 1,
            FinishReason::Aborted => 2,
            FinishReason::DeadEnd(_) | FinishReason::Stopped(_) | FinishReason::Error(_) => 3,
        };
        request.state = RequestState::Ended(FINISHED_REASONS[index]);
        let (times, counts) = (&request.times, &request.counts);
        self.finished[index].increment(1);
        if matches!(reason, FinishReason::Error(_)) {
            self.corrupted.increment(1);
        }
        self.e2e_latency.record(times.e2e.as_secs_f64());
        self.queue_time.record(times.queue.as_secs_f64());
        self.inference_time.record((times.prefill + times.decode).as_secs_f64());
        self.prefill_time.record(times.prefill.as_secs_f64());
        self.decode_time.record(times.decode.as_secs_f64());
        self.request_prompt_tokens.record(f64::from(counts.prompt));
        self.request_generation_tokens.record(f64::from(counts.output));
        self.request_prefill_computed.record(f64::from(counts.prompt - counts.cached));
        self.request_num_preemptions.record(f64::from(counts.preemptions));
        if let Some(max_tokens) = counts.max_tokens {
            self.request_params_max_tokens.record(f64::from(max_tokens));
        }
        if counts.output > 1 {
            let per_token = times.decode.as_secs_f64() / f64::from(counts.output - 1);
            self.time_per_output_token.record(per_token);
        }
        self.journal.end(request);
    }
}
