//! `vllm.Control`: what routers ask of a worker. What Quire does not have is UNIMPLEMENTED.

use futures_util::future::BoxFuture;
use tonic::{Request, Response, Status};
use vllm_proto as proto;
use vllm_proto::control_server::Control;

use super::Service;
use crate::grpc::running::owner_of;
use crate::kv_events::KvPublisher;
use crate::routes::server_info::INSTANCE_ID;

/// Methods of `Control` without an implementation, with their messages.
macro_rules! unimplemented_methods {
    ($($name:ident($request:ident) -> $response:ident),* $(,)?) => {
        // Written out: async_trait does not look into macros.
        $(fn $name<'life0, 'async_trait>(
            &'life0 self,
            _request: Request<proto::$request>,
        ) -> BoxFuture<'async_trait, Result<Response<proto::$response>, Status>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            let message = concat!(stringify!($name), " is not supported");
            Box::pin(std::future::ready(Err(Status::unimplemented(message))))
        })*
    };
}

#[tonic::async_trait]
impl Control for Service {
    async fn get_server_info(
        &self,
        _request: Request<proto::GetServerInfoRequest>,
    ) -> Result<Response<proto::ServerInfo>, Status> {
        let model = self.state.model()?;
        let info = model.engine.info();
        Ok(Response::new(proto::ServerInfo {
            engine_version: env!("CARGO_PKG_VERSION").into(),
            // The name of this contract, which routers compare.
            api_version: "vllm".into(),
            instance_id: INSTANCE_ID.clone(),
            // The engine is one worker, however many ranks it has inside.
            parallelism: Some(proto::ParallelismInfo {
                tensor_parallel_size: 1,
                pipeline_parallel_size: 1,
                data_parallel_size: 1,
                data_parallel_rank: 0,
                decode_context_parallel_size: 1,
                world_size: 1,
                data_parallel_size_local: 1,
            }),
            max_model_len: info.limits.max_model_len,
            kv_block_size: info.block_size,
            total_kv_blocks: u64::from(info.num_blocks),
            max_running_requests: u64::from(info.max_num_seqs),
            max_batched_tokens: u64::from(info.max_num_batched_tokens),
            max_loras: 0,
            rl_capabilities: None,
            proto_version: proto::VERSION.into(),
            effective_attention_block_size: Some(u64::from(info.block_size)),
        }))
    }

    async fn get_model_info(
        &self,
        _request: Request<proto::GetModelInfoRequest>,
    ) -> Result<Response<proto::ModelInfo>, Status> {
        let model = self.state.model()?;
        let entry = self.state.models.find(Some(&model.name))?;
        let generates = model.engine.info().limits.tasks.generates;
        Ok(Response::new(proto::ModelInfo {
            model_id: model.path_or_name(),
            served_model_name: model.name.clone(),
            served_model_aliases: entry.names().iter().skip(1).cloned().collect(),
            supports_text_input: generates,
            supports_token_ids_input: generates,
            ..proto::ModelInfo::default()
        }))
    }

    async fn abort(
        &self,
        request: Request<proto::AbortRequest>,
    ) -> Result<Response<proto::AbortResponse>, Status> {
        let owner = owner_of(&request);
        self.running.abort(owner, &request.into_inner().request_ids);
        Ok(Response::new(proto::AbortResponse {}))
    }

    async fn shutdown(
        &self,
        _request: Request<proto::ShutdownRequest>,
    ) -> Result<Response<proto::ShutdownResponse>, Status> {
        Err(Status::failed_precondition("the server is stopped by SIGTERM"))
    }

    async fn list_loras(
        &self,
        _request: Request<proto::ListLorasRequest>,
    ) -> Result<Response<proto::ListLorasResponse>, Status> {
        Ok(Response::new(proto::ListLorasResponse::default()))
    }

    async fn get_kv_event_sources(
        &self,
        _request: Request<proto::GetKvEventSourcesRequest>,
    ) -> Result<Response<proto::GetKvEventSourcesResponse>, Status> {
        let models = self.state.models.all_loaded();
        let publishers = models.iter().flat_map(|model| &model.kv_publishers);
        let sources = publishers.map(kv_event_source).collect();
        Ok(Response::new(proto::GetKvEventSourcesResponse { sources }))
    }

    async fn is_paused(
        &self,
        _request: Request<proto::IsPausedRequest>,
    ) -> Result<Response<proto::IsPausedResponse>, Status> {
        Ok(Response::new(proto::IsPausedResponse { paused: false }))
    }

    async fn is_sleeping(
        &self,
        _request: Request<proto::IsSleepingRequest>,
    ) -> Result<Response<proto::IsSleepingResponse>, Status> {
        Ok(Response::new(proto::IsSleepingResponse { sleeping: false }))
    }

    unimplemented_methods! {
        load_lora(LoadLoraRequest) -> LoadLoraResponse,
        unload_lora(UnloadLoraRequest) -> UnloadLoraResponse,
        pause_generation(PauseGenerationRequest) -> PauseGenerationResponse,
        resume_generation(ResumeGenerationRequest) -> ResumeGenerationResponse,
        sleep(SleepRequest) -> SleepResponse,
        wake_up(WakeUpRequest) -> WakeUpResponse,
        init_weight_transfer_engine(InitWeightTransferEngineRequest) -> InitWeightTransferEngineResponse,
        start_weight_update(StartWeightUpdateRequest) -> StartWeightUpdateResponse,
        start_draft_weight_update(StartDraftWeightUpdateRequest) -> StartDraftWeightUpdateResponse,
        update_weights(UpdateWeightsRequest) -> UpdateWeightsResponse,
        finish_weight_update(FinishWeightUpdateRequest) -> FinishWeightUpdateResponse,
        update_weight_version(UpdateWeightVersionRequest) -> UpdateWeightVersionResponse,
        get_weight_version(GetWeightVersionRequest) -> GetWeightVersionResponse,
    }
}

fn kv_event_source(publisher: &KvPublisher) -> proto::KvEventSource {
    let config = publisher.config();
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    proto::KvEventSource {
        transport: "zmq".into(),
        endpoint: publisher.endpoint().into(),
        topic: config.topic.clone(),
        replay_endpoint: publisher.replay_endpoint().unwrap_or_default().into(),
        data_parallel_rank: Some(publisher.rank()),
        encoding: "msgpack".into(),
        schema_version: 1,
        buffer_steps: count(config.buffer_steps),
        hwm: config.hwm,
        max_queue_size: count(config.max_queue_size),
    }
}
