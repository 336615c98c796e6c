//! The loop: admit, schedule, launch, update, emit. One thread owns the scheduler and every request's stream.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quire_kernels::DeviceHealth;
use quire_scheduler::{
    CacheEvent, NewSequence, Policy, Rejected, Scheduler, SchedulerConfig, SchedulerOutput,
    SequenceEvent, SequenceId, StopRule, TokenId,
};

use crate::config::{EngineConfig, SchedulingPolicy};
use crate::constraint::Guide;
use crate::handle::{
    Disconnected, EngineHandle, EngineInfo, EngineQueue, LastStep, Look, Submission, Woken,
};
use crate::live::{Live, finish_reason};
use crate::load::load_ranks;
use crate::metrics::EngineMetrics;
use crate::model_runner::{MAX_END_TOKENS, StepJob, StepResult};
use crate::plan::MemoryPlan;
use crate::pooling::PoolingKind;
use crate::ranks::Ranks;
use crate::request::{DraftCount, FinishReason};
use crate::sequence_table::{RowInit, RowSampling};
use crate::speculative::{Speculation, proposer_of};
use crate::step_runner::{Reply, StepRunner};
use crate::validate::{RequestLimits, Tasks};
use crate::weights::ModelFiles;

/// A loaded model, ready to run.
pub struct Engine {
    ranks: Ranks,
    speculation: Option<Speculation>,
    config: EngineConfig,
    vocab_size: u32,
    tasks: Tasks,
    end_tokens: Arc<[TokenId]>,
    /// Which of several.
    replica: usize,
    cache_sink: Option<CacheSink>,
}

/// Is told, in each turn of the loop, what entered and left the prefix cache. Must not wait.
pub type CacheSink = Box<dyn FnMut(Vec<CacheEvent>) + Send>;

impl Engine {
    /// Loads the weights and takes all memory. `end_tokens` end an answer; `on_progress(done, total)` counts layers.
    pub fn load(
        files: &ModelFiles,
        plan: &MemoryPlan,
        end_tokens: &[TokenId],
        on_progress: &(dyn Fn(usize, usize) + Sync),
    ) -> anyhow::Result<Self> {
        Self::load_replica(files, plan, 0, end_tokens, on_progress)
    }

    /// As `load`, of number `replica` of as many as the plan has.
    pub fn load_replica(
        files: &ModelFiles,
        plan: &MemoryPlan,
        replica: usize,
        end_tokens: &[TokenId],
        on_progress: &(dyn Fn(usize, usize) + Sync),
    ) -> anyhow::Result<Self> {
        let config = plan.config.clone();
        let num_end_tokens = end_tokens.len();
        anyhow::ensure!(
            config.gpu.is_none() || num_end_tokens <= MAX_END_TOKENS,
            "the model ends answers with {num_end_tokens} tokens, a GPU takes {MAX_END_TOKENS}; \
             start with --device cpu"
        );
        let ranks = load_ranks(files, plan, replica, on_progress)?;
        if let Some(tensor) = files.unused_tensor() {
            let architecture = plan.spec.architecture();
            anyhow::bail!(
                "tensor {tensor:?} has no place in a {architecture} model of this config.json"
            );
        }
        let speculation = match &config.speculative {
            Some(settings) => {
                let proposer = proposer_of(settings, files, plan.draft.as_deref())?;
                Some(Speculation::new(settings, proposer))
            }
            None => None,
        };
        let vocab_size = plan.spec.vocab_size() as u32;
        let tasks = tasks_of(plan);
        let end_tokens = end_tokens.iter().copied().filter(|&token| token < vocab_size).collect();
        let cache_sink = None;
        Ok(Self { ranks, speculation, config, vocab_size, tasks, end_tokens, replica, cache_sink })
    }

    /// Tells `sink` of every change of the prefix cache, but for what requests with a salt of their own store.
    pub fn tell_cache_events(&mut self, sink: CacheSink) {
        self.cache_sink = Some(sink);
    }

    /// Starts the loop. It ends when every handle is dropped and every request is finished.
    pub fn spawn(self) -> anyhow::Result<(EngineHandle, JoinHandle<()>)> {
        let config = &self.config;
        let (handle, queue) = EngineHandle::new(EngineInfo {
            limits: RequestLimits {
                vocab_size: self.vocab_size,
                max_model_len: config.max_model_len,
                max_logprobs: config.max_logprobs,
                max_token_list: config.max_token_list,
                tasks: self.tasks,
            },
            max_num_queued: config.max_num_queued_reqs,
            max_num_seqs: config.max_num_seqs,
            max_num_batched_tokens: config.max_num_batched_tokens,
            block_size: config.block_size,
            num_blocks: config.num_blocks(),
        });
        let mut scheduler = Scheduler::new(scheduler_config(config)).map_err(anyhow::Error::msg)?;
        let hasher = RandomState::new();
        if self.cache_sink.is_some() {
            scheduler.watch_cache(hasher.hash_one(None::<String>));
        }
        let mut state = Loop {
            queue,
            scheduler,
            health: self.ranks.health(),
            runner: StepRunner::new(self.ranks, config.async_scheduling),
            max_in_flight: if config.async_scheduling { 2 } else { 1 },
            num_in_flight: 0,
            spare: Vec::new(),
            speculation: self.speculation,
            live: HashMap::new(),
            metrics: EngineMetrics::new(
                &config.served_model_name,
                self.replica,
                config.speculative.as_ref().map(|speculative| speculative.num_tokens),
            ),
            end_tokens: self.end_tokens,
            vocab_size: self.vocab_size,
            next_id: 0,
            has_ended: false,
            hasher,
            cache_sink: self.cache_sink,
        };
        let thread = std::thread::Builder::new().name("quire-engine".into());
        Ok((handle, thread.spawn(move || state.run())?))
    }
}

fn tasks_of(plan: &MemoryPlan) -> Tasks {
    let (spec, kind) = (&plan.spec, plan.pooling.kind);
    let is_kept = spec.is_encoder() || kind == PoolingKind::Last;
    let no_embeddings = plan.pooling.scores.map(|_| {
        "it is a reranker, which scores pairs of texts: use /v1/rerank or /v1/score".to_owned()
    });
    let of_decoder = (!is_kept).then(|| {
        format!(
            "its files ask for {} pooling, but of a decoder only the last hidden state is kept \
             (--pooling last)",
            kind.name()
        )
    });
    let no_embeddings = no_embeddings.or(of_decoder);
    // A decoder's scheduler keeps a place for a token to generate.
    let max_embedded_len = plan.config.max_model_len - u32::from(!spec.is_encoder());
    Tasks {
        generates: plan.writes_text,
        hidden_size: spec.hidden_size() as u32,
        max_embedded_len,
        no_embeddings,
        scores: plan.pooling.scores,
    }
}

/// What a step takes beside its tokens, in prompt tokens: on a CPU as it was timed (benches/results/2026-11-21-tenants.md).
const STEP_OVERHEAD_ON_CPU: u32 = 6;
/// Arithmetic of so many tokens takes a GPU as long as the weights take to be read.
const STEP_OVERHEAD_ON_GPU: u32 = 256;

/// What of the configuration the scheduler decides by.
pub fn scheduler_config(config: &EngineConfig) -> SchedulerConfig {
    SchedulerConfig {
        block_size: config.block_size,
        pools: config.cache_pools.clone(),
        max_num_seqs: config.max_num_seqs,
        max_num_batched_tokens: config.max_num_batched_tokens,
        // It keeps a place for a token after the prompt, which an encoder does not need.
        max_model_len: config.max_model_len + u32::from(config.computes_whole_prompts),
        step_overhead_tokens: match config.gpu {
            None => STEP_OVERHEAD_ON_CPU,
            Some(_) => STEP_OVERHEAD_ON_GPU,
        },
        // The handle bounds the queue, where a client can be told at once.
        max_num_queued_seqs: u32::MAX,
        long_prefill_token_threshold: config.long_prefill_token_threshold,
        enable_chunked_prefill: !config.computes_whole_prompts,
        policy: match config.scheduling_policy {
            SchedulingPolicy::Fcfs => Policy::FirstCome,
            SchedulingPolicy::Priority => Policy::Priority,
        },
        enable_prefix_caching: config.enable_prefix_caching,
        cache_groups: config.cache_groups.clone(),
    }
}

struct Loop {
    queue: EngineQueue,
    scheduler: Scheduler,
    health: DeviceHealth,
    runner: StepRunner,
    max_in_flight: usize,
    num_in_flight: usize,
    /// Buffers of finished steps, to be used again.
    spare: Vec<(Vec<RowInit>, Box<StepResult>)>,
    /// Needs the tokens of one step before the next: no step is launched ahead.
    speculation: Option<Speculation>,
    live: HashMap<SequenceId, Live>,
    metrics: EngineMetrics,
    end_tokens: Arc<[TokenId]>,
    vocab_size: u32,
    next_id: u64,
    has_ended: bool,
    /// Random per process: nobody can prepare prompts whose blocks collide in the prefix cache; also draws seeds.
    hasher: RandomState,
    cache_sink: Option<CacheSink>,
}

impl Loop {
    fn run(&mut self) {
        let _near = self.runner.stay_near();
        while !self.has_ended && self.admit_waiting_requests() {
            self.cancel_abandoned();
            if let Some(speculation) = &mut self.speculation {
                speculation.propose(&mut self.scheduler, &mut self.runner, &self.live);
            }
            let next = self.scheduler.schedule();
            let has_next = next.is_some();
            if let Some(output) = next {
                self.launch(output);
            }
            let is_behind = self.num_in_flight >= self.max_in_flight;
            if self.num_in_flight > 0 && (is_behind || !has_next) {
                self.finish_oldest_step();
            }
            self.tell_cache_events();
            let stats = self.scheduler.stats();
            self.queue.publish(stats);
            self.metrics.scheduler(stats);
            self.metrics.oldest_waiting(self.oldest_waiting(stats.num_waiting));
            if let Some(look) = self.queue.next_look() {
                self.show(look);
            }
        }
    }

    /// Makes a view of the engine as it is between two turns.
    fn show(&self, look: Look) {
        let now = Instant::now();
        let live = self.live.values().map(|live| live.view(now));
        let blocks = self.scheduler.block_map(look.max_cells);
        look.answer(self.metrics.journal.view(blocks, live));
    }

    fn tell_cache_events(&mut self) {
        let Some(sink) = &mut self.cache_sink else { return };
        let events = self.scheduler.take_cache_events();
        if !events.is_empty() {
            sink(events);
        }
    }

    /// How long the request that waits longest for its first step does.
    fn oldest_waiting(&self, num_waiting: u32) -> Duration {
        if num_waiting == 0 {
            return Duration::ZERO;
        }
        let oldest = self.live.values().filter_map(Live::waiting_since).min();
        oldest.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Takes every queued request; sleeps when there is nothing to do. `false`: the end.
    fn admit_waiting_requests(&mut self) -> bool {
        self.queue.beat();
        loop {
            match self.queue.try_recv() {
                Ok(Some(submission)) => self.admit(submission),
                Ok(None) if self.is_idle() => {
                    self.queue.idle();
                    match self.queue.wait() {
                        Ok(Woken::ByRequest(submission)) => {
                            self.queue.beat();
                            self.admit(submission);
                        }
                        Ok(Woken::ByLook(look)) => self.show(look),
                        Err(Disconnected) => return false,
                    }
                }
                Err(Disconnected) if self.is_idle() => return false,
                Ok(None) | Err(Disconnected) => return true,
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.live.is_empty() && self.num_in_flight == 0
    }

    fn admit(&mut self, Submission { request, events }: Submission) {
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let (params, pooling) = (request.params, request.pooling);
        let seed = params.seed.unwrap_or_else(|| self.hasher.hash_one(id.0));
        let sequence = NewSequence {
            id,
            stop: StopRule {
                // A sequence that is pooled ends with the token that says so.
                max_tokens: if pooling.is_some() {
                    1
                } else {
                    params.max_tokens.unwrap_or(u32::MAX)
                },
                // What must follow a grammar ends where that says so.
                min_tokens: if params.constraint.is_some() { 0 } else { params.min_tokens },
                eos_token_ids: Arc::clone(&self.end_tokens),
                stop_token_ids: params.stop_token_ids.as_slice().into(),
                ignore_eos: params.ignore_eos && params.constraint.is_none() || pooling.is_some(),
            },
            tenant: request.tenant,
            priority: request.priority,
            cache_salt: self.hasher.hash_one(&request.cache_salt),
            skip_prefix_cache: params.prompt_logprobs.is_some(),
            prompt: request.prompt,
        };
        let lengths = (sequence.prompt.len() as u32, sequence.cache_salt);
        let sampling = match pooling {
            Some(pooling) => RowSampling::pooled(pooling),
            None => RowSampling::new(params, seed, &self.end_tokens, self.vocab_size),
        };
        let live = Live::new(id, events, Arc::new(sampling), lengths, request.arrival);
        match self.scheduler.add(sequence) {
            Ok(()) => drop(self.live.insert(id, live)),
            Err(rejected) => self.reject(live, &rejected),
        }
    }

    /// The validator lets nothing through that the scheduler refuses, but for what only the pool's size forbids.
    fn reject(&mut self, live: Live, rejected: &Rejected) {
        let reason = FinishReason::Error(format!("{rejected}; raise --kv-cache-memory"));
        live.finish(reason, Instant::now(), &mut self.metrics);
    }

    /// Clients that have gone are noticed here, whether their request waits, runs or is halfway through its prompt.
    fn cancel_abandoned(&mut self) {
        let gone: Vec<SequenceId> =
            self.live.iter().filter(|(_, live)| live.is_abandoned()).map(|(&id, _)| id).collect();
        gone.into_iter().for_each(|id| self.cancel(id));
    }

    fn cancel(&mut self, id: SequenceId) {
        self.scheduler.cancel(id);
        self.speculation.iter_mut().for_each(|own| own.forget(id));
        if let Some(live) = self.live.remove(&id) {
            let is_whole = live.is_satisfied();
            let reason = if is_whole { FinishReason::EndToken } else { FinishReason::Aborted };
            live.finish(reason, Instant::now(), &mut self.metrics);
        }
    }

    fn launch(&mut self, output: SchedulerOutput) {
        let now = Instant::now();
        let num_tokens = output.num_tokens();
        let num_sequences = output.sequences.len() as u32;
        self.queue.begin_step(LastStep { number: output.step.0, num_sequences, num_tokens });
        let (mut rows, result) = self.spare.pop().unwrap_or_default();
        for admitted in &output.admitted {
            let live = self.live.get_mut(&admitted.id).expect("scheduled sequences are live");
            live.admitted(admitted.num_cached_tokens, now);
            let tokens =
                self.scheduler.tokens(admitted.id).expect("scheduled sequences have tokens");
            rows.push(RowInit {
                row: admitted.row,
                tokens: tokens.to_vec(),
                num_prompt_tokens: live.num_prompt_tokens,
                sampling: Arc::clone(&live.sampling),
            });
        }
        self.metrics.step(num_tokens);
        self.speculation.iter_mut().for_each(|speculation| speculation.launched(&output));
        self.runner.launch(StepJob { output, rows }, result);
        self.num_in_flight += 1;
    }

    fn finish_oldest_step(&mut self) {
        let start = Instant::now();
        let Reply { rows, result, is_lost } = self.runner.wait();
        self.num_in_flight -= 1;
        let seconds = start.elapsed().as_secs_f64();
        self.metrics.step_seconds.record(seconds);
        match result {
            Ok(mut result) => {
                self.speculation.iter_mut().for_each(|own| own.finished_step(seconds));
                self.emit(&mut result);
                self.spare.push((rows, result));
            }
            Err(panic) if is_lost => self.give_up(&panic),
            Err(panic) => self.recover(&panic),
        }
    }

    fn emit(&mut self, result: &mut StepResult) {
        for prompt in &result.prompt_logprobs {
            if let Some(live) = self.live.get_mut(&prompt.id) {
                live.keep_prompt_logprobs(prompt.first_token, &prompt.entries);
            }
        }
        let now = Instant::now();
        let events = self.scheduler.update(&result.output);
        // Before the events: who has read an answer's end finds its step counted.
        self.queue.publish(self.scheduler.stats());
        for event in events {
            let index = event.index_in_step.map(|index| index as usize);
            let logprobs = index.map_or(&[][..], |index| &result.logprobs[index]);
            let Some(live) = self.live.get_mut(&event.id) else { continue };
            if live.is_pooled() {
                let embedding = index.and_then(|index| result.embeddings[index].take());
                if let Some(embedding) = embedding {
                    live.emit_embedding(embedding, now, &mut self.metrics);
                }
            } else {
                let (num_tokens, num_right) = (event.num_drafts, event.num_right_drafts);
                let tokens = (&event.new_tokens[..], DraftCount { num_tokens, num_right });
                live.emit_tokens(tokens, logprobs, now, &mut self.metrics);
                if let Some(speculation) = &mut self.speculation {
                    speculation.learn(event.id, &event.new_tokens);
                }
            }
            self.finish(&event, "the model's output for this request is not a number", now);
        }
    }

    /// Ends the request where the event says so; `error` is what to say if it failed.
    fn finish(&mut self, event: &SequenceEvent, error: &str, now: Instant) {
        if let Some(reason) = event.finish
            && let Some(live) = self.live.remove(&event.id)
        {
            self.speculation.iter_mut().for_each(|own| own.forget(event.id));
            let failure = live.sampling.guide().and_then(Guide::failure);
            let reason = match (finish_reason(reason, error), failure) {
                (FinishReason::Length, _) if live.is_pooled() => FinishReason::Embedded,
                (FinishReason::Error(_), Some(failure)) => FinishReason::DeadEnd(failure),
                (reason, _) => reason,
            };
            live.finish(reason, now, &mut self.metrics);
        }
    }

    /// No step can run any more: readiness goes red, everybody is told, and the loop ends.
    fn give_up(&mut self, reason: &str) {
        tracing::error!("the engine stops: {reason}");
        self.has_ended = true;
        self.queue.stop();
        while let Ok(Some(submission)) = self.queue.try_recv() {
            self.admit(submission);
        }
        for (_, live) in self.live.drain() {
            let reason = FinishReason::Stopped(format!("the engine stopped: {reason}"));
            live.finish(reason, Instant::now(), &mut self.metrics);
        }
    }

    /// A step panicked: every row is forgotten and recomputed; who was in two such steps fails alone.
    fn recover(&mut self, panic: &str) {
        if let Some(fault) = self.health.fault() {
            return self.give_up(&format!("the GPU failed ({fault}): {panic}"));
        }
        tracing::error!("a step failed and is run again: {panic}");
        self.metrics.failed_step();
        while self.num_in_flight > 0 {
            let _ = self.runner.wait();
            self.num_in_flight -= 1;
        }
        self.runner.reset();
        let guides = self.live.values().filter_map(|live| live.sampling.guide());
        guides.for_each(Guide::restart);
        let now = Instant::now();
        for event in self.scheduler.abort_in_flight() {
            self.finish(&event, "an internal error stopped this request", now);
        }
    }
}
