//! `grpc.health.v1`: how the server is, for probes and routers. Needs no key, as the probes of HTTP.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health as HealthService;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::app::{Health, SharedState};

/// The names that may be asked for; the empty one is the server.
const SERVICES: &[&str] =
    &["", "quire.v1.Inference", "vllm.Inference", "vllm.Control", ENGINE, "readiness", LIVENESS];

const ENGINE: &str = "vllm.grpc.engine.VllmEngine";

/// As `/livez`: red only when a restart would help.
const LIVENESS: &str = "liveness";

/// How often a watch looks.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

pub(super) struct Service {
    state: SharedState,
}

impl Service {
    pub(super) fn new(state: SharedState) -> Self {
        Self { state }
    }
}

fn status_of(state: &SharedState, service: &str) -> ServingStatus {
    let is_well = match state.health() {
        Health::Ready => true,
        Health::Loading | Health::Draining => service == LIVENESS,
        Health::Hung | Health::Stopped => false,
    };
    if is_well { ServingStatus::Serving } else { ServingStatus::NotServing }
}

#[tonic::async_trait]
impl HealthService for Service {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !SERVICES.contains(&service.as_str()) {
            return Err(Status::not_found("no such service"));
        }
        let status = status_of(&self.state, &service).into();
        Ok(Response::new(HealthCheckResponse { status }))
    }

    type WatchStream =
        Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>>;

    /// The status now, and again each time it changes; as the protocol wants, an unknown service is no error here.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (state, service) = (self.state.clone(), request.into_inner().service);
        let now = move || match SERVICES.contains(&service.as_str()) {
            true => status_of(&state, &service),
            false => ServingStatus::ServiceUnknown,
        };
        let changes = stream::unfold(None, move |last| {
            let now = now.clone();
            async move {
                let status = loop {
                    let status = now();
                    if Some(status) != last {
                        break status;
                    }
                    tokio::time::sleep(WATCH_INTERVAL).await;
                };
                let response = HealthCheckResponse { status: status.into() };
                Some((Ok(response), Some(status)))
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
