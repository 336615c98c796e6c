//! `vllm.grpc.engine.VllmEngine`: what sgl-model-gateway and llm-d call.

mod convert;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::{Stream, stream};
use prost::Message;
use quire_engine::PoolingParams;
use quire_engine::request::{TokenId, TokenOutput};
use quire_proto::engine as proto;
use quire_proto::engine::generate_response::Response as Part;
use quire_proto::engine::vllm_engine_server::VllmEngine;
use tonic::{Request, Response, Status};

use super::answer::Answers;
use super::bodies::Held;
use super::running::{Running, owner_of};
use super::stall;
use crate::app::{Health, SharedState, unix_time};
use crate::error::ApiError;
use crate::generation::embed::{EmbedJob, EmbedOptions, Input};
use crate::generation::{ChoiceEvent, Delta, Finish, Generation};
use crate::text::strftime;

type Parts = Pin<Box<dyn Stream<Item = Result<proto::GenerateResponse, Status>> + Send>>;

pub(super) struct Service {
    state: SharedState,
    running: Arc<Running>,
}

/// Answers in the making, and how they are to be shown.
struct Call {
    answers: Answers,
    prompt: Vec<TokenId>,
    has_chunks: bool,
    shown: Vec<Shown>,
}

/// One answer so far.
#[derive(Clone, Default)]
struct Shown {
    tokens: Vec<TokenOutput>,
    num_cached_tokens: u32,
    input_logprobs: Option<proto::InputLogprobs>,
}

impl Service {
    pub(super) fn new(state: SharedState, running: Arc<Running>) -> Self {
        Self { state, running }
    }

    async fn begin(&self, request: Request<proto::GenerateRequest>) -> Result<Call, ApiError> {
        let arrival = Instant::now();
        let (owner, held) = (owner_of(&request), Held::of(&request));
        let mut request = request.into_inner();
        let place = self.running.register(owner, std::mem::take(&mut request.request_id))?;
        let model = self.state.models.get(None).await?;
        let (size, has_chunks) = (request.encoded_len(), request.stream);
        let (state, served) = (Arc::clone(&self.state), Arc::clone(&model));
        let work =
            move || convert::generation_spec(request, &served, &state.config.limits, arrival);
        let mut spec = held.convert(&self.state, size, work).await?;
        let generation = Generation::submit(&self.state, &model, &spec).await?;
        let shown = vec![Shown::default(); generation.num_choices()];
        let prompt = spec.prompts.pop().unwrap_or_default();
        Ok(Call { answers: Answers::new(generation, place), prompt, has_chunks, shown })
    }
}

impl Call {
    /// The next message; `None` when all answers are over.
    async fn next(&mut self) -> Option<Result<proto::GenerateResponse, Status>> {
        loop {
            let (index, event) = self.answers.next().await?;
            let part = match event {
                ChoiceEvent::Failed(error) => return Some(Err(error.into())),
                ChoiceEvent::Started(started) => {
                    let shown = &mut self.shown[index];
                    shown.num_cached_tokens = started.num_cached_tokens;
                    shown.input_logprobs =
                        convert::input_logprobs(&self.prompt, &started.prompt_logprobs);
                    continue;
                }
                ChoiceEvent::Delta(delta) => self.part(index, delta),
            };
            if part.is_some() {
                return Some(Ok(proto::GenerateResponse { response: part }));
            }
        }
    }

    fn part(&mut self, index: usize, delta: Delta) -> Option<Part> {
        let shown = &mut self.shown[index];
        let has_tokens = !delta.tokens.is_empty();
        if let Some(finish) = delta.finish {
            shown.tokens.extend(delta.tokens);
            return Some(self.complete(index, &finish));
        }
        let token_ids = delta.tokens.iter().map(|output| output.token).collect();
        let output_logprobs = convert::output_logprobs(&delta.tokens);
        shown.tokens.extend(delta.tokens);
        if !self.has_chunks || !has_tokens {
            return None;
        }
        Some(Part::Chunk(proto::Chunk {
            token_ids,
            prompt_tokens: self.prompt.len() as u32,
            completion_tokens: shown.tokens.len() as u32,
            cached_tokens: shown.num_cached_tokens,
            output_logprobs,
            input_logprobs: shown.input_logprobs.take(),
            index: index as u32,
        }))
    }

    fn complete(&mut self, index: usize, finish: &Finish) -> Part {
        let shown = std::mem::take(&mut self.shown[index]);
        Part::Complete(proto::Complete {
            output_ids: shown.tokens.iter().map(|output| output.token).collect(),
            finish_reason: finish.reason.into(),
            prompt_tokens: self.prompt.len() as u32,
            completion_tokens: shown.tokens.len() as u32,
            cached_tokens: shown.num_cached_tokens,
            output_logprobs: convert::output_logprobs(&shown.tokens),
            input_logprobs: shown.input_logprobs,
            index: index as u32,
            matched_stop: convert::matched_stop(finish),
        })
    }
}

#[tonic::async_trait]
impl VllmEngine for Service {
    type GenerateStream = Parts;

    async fn generate(
        &self,
        request: Request<proto::GenerateRequest>,
    ) -> Result<Response<Parts>, Status> {
        let call = self.begin(request).await?;
        let parts = stream::unfold(call, async |mut call| Some((call.next().await?, call)));
        let timeout = self.state.config.limits.write_timeout;
        Ok(Response::new(stall::watched(parts, timeout)))
    }

    async fn embed(
        &self,
        request: Request<proto::EmbedRequest>,
    ) -> Result<Response<proto::EmbedResponse>, Status> {
        let model = self.state.models.get(None).await?;
        model.engine.info().limits.check_embeds().map_err(ApiError::from)?;
        let held = Held::of(&request);
        let tokens = request.into_inner().tokenized.unwrap_or_default().input_ids;
        let options = EmbedOptions {
            pooling: PoolingParams::default(),
            add_special_tokens: true,
            max_tokens: None,
            priority: 0,
            arrival: Instant::now(),
        };
        let job = EmbedJob::new(&model, vec![Input::Tokens(tokens)], options)?;
        drop(held);
        let (mut vectors, num_tokens) = job.run(&self.state).await?;
        let embedding = vectors.pop().unwrap_or_default();
        Ok(Response::new(proto::EmbedResponse {
            embedding_dim: embedding.len() as u32,
            embedding,
            prompt_tokens: num_tokens as u32,
        }))
    }

    async fn health_check(
        &self,
        _request: Request<proto::HealthCheckRequest>,
    ) -> Result<Response<proto::HealthCheckResponse>, Status> {
        let health = self.state.health();
        let message = format!("{health:?}").to_lowercase();
        let healthy = health == Health::Ready;
        Ok(Response::new(proto::HealthCheckResponse { healthy, message }))
    }

    async fn abort(
        &self,
        request: Request<proto::AbortRequest>,
    ) -> Result<Response<proto::AbortResponse>, Status> {
        let owner = owner_of(&request);
        self.running.abort(owner, &request.into_inner().request_ids);
        Ok(Response::new(proto::AbortResponse {}))
    }

    async fn get_model_info(
        &self,
        _request: Request<proto::GetModelInfoRequest>,
    ) -> Result<Response<proto::GetModelInfoResponse>, Status> {
        let model = self.state.models.get(None).await?;
        let limits = &model.engine.info().limits;
        let path = model.path_or_name();
        Ok(Response::new(proto::GetModelInfoResponse {
            model_path: path.clone(),
            is_generation: limits.tasks.generates,
            max_context_length: limits.max_model_len,
            vocab_size: limits.vocab_size,
            supports_vision: false,
            served_model_name: model.name.clone(),
            tokenizer_path: path,
            eos_token_ids: model.end_tokens().iter().map(|&token| token as i32).collect(),
            max_req_input_len: limits.max_model_len.saturating_sub(1) as i32,
        }))
    }

    async fn get_server_info(
        &self,
        _request: Request<proto::GetServerInfoRequest>,
    ) -> Result<Response<proto::GetServerInfoResponse>, Status> {
        let model = self.state.model()?;
        let engine = &model.engine;
        Ok(Response::new(proto::GetServerInfoResponse {
            active_requests: engine.num_unfinished(),
            is_paused: false,
            uptime_seconds: self.state.uptime().as_secs_f64(),
            // What callers look for.
            server_type: "vllm-grpc".into(),
            data_parallel_size: engine.num_replicas() as i32,
        }))
    }

    async fn get_loads(
        &self,
        request: Request<proto::GetLoadsRequest>,
    ) -> Result<Response<proto::GetLoadsResponse>, Status> {
        let model = self.state.model()?;
        let engine = &model.engine;
        let wanted = request.into_inner().dp_rank;
        let ranks = 0..engine.num_replicas() as i32;
        let ranks = ranks.filter(|rank| wanted.is_none_or(|wanted| wanted == *rank));
        let info = engine.info();
        let load = |rank: i32| {
            let stats = engine.stats_of(rank as usize);
            let tokens = |blocks: u32| blocks.saturating_mul(info.block_size) as i32;
            let share = |part: u32, whole: u32| f64::from(part) / f64::from(whole.max(1));
            proto::SchedulerLoad {
                dp_rank: rank,
                num_running_reqs: stats.num_running as i32,
                num_waiting_reqs: stats.num_waiting as i32,
                num_total_reqs: (stats.num_running + stats.num_waiting) as i32,
                num_used_tokens: tokens(stats.num_used_blocks),
                max_total_num_tokens: tokens(stats.num_blocks),
                token_usage: share(stats.num_used_blocks, stats.num_blocks),
                cache_hit_rate: stats.prefix_cache_hits as f64
                    / stats.prefix_cache_queries.max(1) as f64,
                utilization: share(stats.num_running, info.max_num_seqs),
                max_running_requests: info.max_num_seqs as i32,
            }
        };
        Ok(Response::new(proto::GetLoadsResponse {
            timestamp: strftime(unix_time() as i64, "%Y-%m-%dT%H:%M:%SZ"),
            version: env!("CARGO_PKG_VERSION").into(),
            dp_rank_count: engine.num_replicas() as i32,
            loads: ranks.map(load).collect(),
        }))
    }
}
