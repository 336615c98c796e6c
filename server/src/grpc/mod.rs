//! The gRPC front-end: THE table of methods, and the services behind one router.

mod answer;
mod bodies;
mod convert;
mod engine;
mod guard;
mod health;
mod inference;
mod running;
mod stall;
mod status;
mod vllm;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use quire_proto::engine::vllm_engine_server::VllmEngineServer;
use quire_proto::v1::inference_server::InferenceServer;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use vllm_proto::control_server::ControlServer;
use vllm_proto::inference_server::InferenceServer as VllmInferenceServer;

use crate::app::{Access, SharedState};
use running::Running;

/// Bytes of a message to the services that only tell what is here; these messages are not counted.
const MAX_QUESTION_BYTES: usize = 4 << 10;

/// Every method: its service, its name, and who may call it.
pub const METHODS: &[Method] = &[
    Method::new("quire.v1.Inference", "Generate", Access::Key),
    Method::new("quire.v1.Inference", "GenerateStream", Access::Key),
    Method::new("quire.v1.Inference", "Embed", Access::Key),
    Method::new("quire.v1.Inference", "Tokenize", Access::Key),
    Method::new("quire.v1.Inference", "Models", Access::Key),
    Method::new("quire.v1.Inference", "Abort", Access::Key),
    Method::new("vllm.Inference", "Generate", Access::Key),
    Method::new("vllm.Inference", "GenerateStream", Access::Key),
    Method::new("vllm.Control", "GetServerInfo", Access::Key),
    Method::new("vllm.Control", "GetModelInfo", Access::Key),
    Method::new("vllm.Control", "Abort", Access::Key),
    Method::new("vllm.Control", "ListLoras", Access::Key),
    Method::new("vllm.Control", "GetKvEventSources", Access::Key),
    Method::new("vllm.Control", "IsPaused", Access::Key),
    Method::new("vllm.Control", "IsSleeping", Access::Key),
    Method::new("vllm.grpc.engine.VllmEngine", "Generate", Access::Key),
    Method::new("vllm.grpc.engine.VllmEngine", "Embed", Access::Key),
    Method::new("vllm.grpc.engine.VllmEngine", "HealthCheck", Access::Key),
    Method::new("vllm.grpc.engine.VllmEngine", "Abort", Access::Key),
    Method::new("vllm.grpc.engine.VllmEngine", "GetModelInfo", Access::Key),
    Method::new("vllm.grpc.engine.VllmEngine", "GetServerInfo", Access::Key),
    Method::new("vllm.grpc.engine.VllmEngine", "GetLoads", Access::Key),
    Method::new("grpc.health.v1.Health", "Check", Access::Open),
    Method::new("grpc.health.v1.Health", "Watch", Access::Open),
    Method::new("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo", Access::Key),
    Method::new("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", Access::Key),
];

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    pub service: &'static str,
    pub name: &'static str,
    pub access: Access,
}

impl Method {
    const fn new(service: &'static str, name: &'static str, access: Access) -> Self {
        Self { service, name, access }
    }

    /// Whether its one message is counted: not for probes, nor where messages come one after the other.
    fn is_counted(&self) -> bool {
        self.access != Access::Open && !self.service.starts_with("grpc.reflection.")
    }

    /// The method of a path `/service/name`.
    fn at(path: &str) -> Option<&'static Self> {
        let (service, name) = path.strip_prefix('/')?.split_once('/')?;
        METHODS.iter().find(|method| method.service == service && method.name == name)
    }
}

/// The services, with keys, limits and a net under panics around them.
pub fn router(state: SharedState) -> Router {
    let max_bytes = state.config.limits.max_body_bytes;
    let running = Arc::new(Running::default());
    let inference = inference::Service::new(Arc::clone(&state), Arc::clone(&running));
    let vllm = vllm::Service::new(Arc::clone(&state), Arc::clone(&running));
    let engine = engine::Service::new(Arc::clone(&state), running);
    let mut routes = Routes::new(
        InferenceServer::new(inference)
            .max_decoding_message_size(max_bytes)
            .max_encoding_message_size(usize::MAX),
    );
    routes = routes
        .add_service(
            VllmInferenceServer::new(vllm.clone())
                .max_decoding_message_size(max_bytes)
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(
            VllmEngineServer::new(engine)
                .max_decoding_message_size(max_bytes)
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(ControlServer::new(vllm).max_decoding_message_size(max_bytes))
        .add_service(
            HealthServer::new(health::Service::new(Arc::clone(&state)))
                .max_decoding_message_size(MAX_QUESTION_BYTES),
        );
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(quire_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = described().build_v1().expect("the descriptors are those of the build");
    let v1alpha = described().build_v1alpha().expect("the descriptors are those of the build");
    routes = routes
        .add_service(v1.max_decoding_message_size(MAX_QUESTION_BYTES))
        .add_service(v1alpha.max_decoding_message_size(MAX_QUESTION_BYTES));
    routes.into_axum_router().layer(from_fn_with_state(state, guard::guard))
}
