//! vLLM's own gRPC contract (`vllm.Inference`, `vllm.Control`), so that routers made for it take Quire as a worker.

mod control;
mod convert;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::{Stream, stream};
use prost::Message;
use tonic::{Request, Response, Status};
use vllm_proto::inference_server::Inference;
use vllm_proto::{GenerateRequest, GenerateResponse};

use super::answer::Answers;
use super::bodies::Held;
use super::convert::name_of;
use super::running::{Running, owner_of};
use super::stall;
use crate::app::SharedState;
use crate::error::ApiError;
use crate::generation::{ChoiceEvent, Generation};
use crate::routes::prepare::RoutingHeaders;
use convert::Wanted;

type ResponseStream = Pin<Box<dyn Stream<Item = Result<GenerateResponse, Status>> + Send>>;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Service {
    state: SharedState,
    running: Arc<Running>,
}

/// An answer in the making, and how it is to be shown.
struct Call {
    answers: Answers,
    wanted: Wanted,
}

impl Service {
    pub(super) fn new(state: SharedState, running: Arc<Running>) -> Self {
        Self { state, running }
    }

    async fn begin(&self, request: Request<GenerateRequest>) -> Result<Call, ApiError> {
        let arrival = Instant::now();
        let (owner, held) = (owner_of(&request), Held::of(&request));
        let replica = RoutingHeaders::of(request.metadata().as_ref())?.replica;
        let mut request = request.into_inner();
        let id = std::mem::take(&mut request.request_id);
        let place = self.running.register(owner, id)?;
        let model = self.state.models.get(name_of(&request.model)).await?;
        let size = request.encoded_len();
        let (state, served) = (Arc::clone(&self.state), Arc::clone(&model));
        let work =
            move || convert::generation_spec(request, &served, &state.config.limits, arrival);
        let (mut spec, wanted) = held.convert(&self.state, size, work).await?;
        spec.replica = replica;
        let generation = Generation::submit(&self.state, &model, &spec).await?;
        let wanted = Wanted::new(wanted, spec, generation.num_choices());
        Ok(Call { answers: Answers::new(generation, place), wanted })
    }
}

impl Call {
    /// The next message; `None` when all answers are over.
    async fn next(&mut self) -> Option<Result<GenerateResponse, Status>> {
        loop {
            let (index, event) = self.answers.next().await?;
            match event {
                ChoiceEvent::Failed(error) => return Some(Err(error.into())),
                ChoiceEvent::Started(started) => self.wanted.take_started(index, &started),
                ChoiceEvent::Delta(delta) => return Some(Ok(self.wanted.response(index, delta))),
            }
        }
    }
}

#[tonic::async_trait]
impl Inference for Service {
    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<GenerateResponse>, Status> {
        if request.get_ref().sampling.is_some_and(|sampling| sampling.num_sequences > 1) {
            let message = "one answer fits into one response: more need GenerateStream";
            return Err(ApiError::invalid("sampling.num_sequences", message).into());
        }
        let mut call = self.begin(request).await?;
        let mut whole = GenerateResponse::default();
        while let Some(part) = call.next().await {
            convert::append(&mut whole, part?);
        }
        Ok(Response::new(whole))
    }

    type GenerateStreamStream = ResponseStream;

    async fn generate_stream(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<ResponseStream>, Status> {
        let call = self.begin(request).await?;
        let messages = stream::unfold(call, async |mut call| Some((call.next().await?, call)));
        let timeout = self.state.config.limits.write_timeout;
        Ok(Response::new(stall::watched(messages, timeout)))
    }
}
