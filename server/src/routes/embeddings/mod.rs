//! `POST /v1/embeddings`.

mod types;
mod validate;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::{StreamExt, TryStreamExt, stream};
use quire_engine::request::{FinishReason, StreamEvent};
use quire_engine::{PoolingParams, Request as EngineRequest, TokenStream};

use types::{Embeddings, Item, Numbers};
use validate::{EmbeddingRequest, Encoding, Input};

use crate::app::{InFlight, SharedState, unix_time};
use crate::error::ApiError;
use crate::generation::refusal;
use crate::http;
use crate::model::ServedModel;
use crate::routes::prepare::{Incoming, prepare};

/// Inputs of one request that are in the engine at once; the others of the queue stay for other requests.
const MAX_AT_ONCE: usize = 256;

pub(crate) async fn embeddings(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, ApiError> {
    let job = prepare(&state, request, convert).await?;
    let (vectors, num_tokens) = job.run(&state).await?;
    let data = vectors.into_iter().enumerate().map(|(index, vector)| Item {
        object: "embedding",
        index,
        embedding: match job.encoding {
            Encoding::Float => Numbers::Floats(vector),
            Encoding::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                Numbers::Base64(BASE64_STANDARD.encode(bytes))
            }
        },
    });
    let answer = Embeddings {
        id: &job.id,
        object: "list",
        created: unix_time(),
        model: state.model_name(),
        data: data.collect(),
        usage: types::Usage { prompt_tokens: num_tokens, total_tokens: num_tokens },
    };
    Ok(http::json(StatusCode::OK, &answer))
}

/// A checked request with its token ids.
struct Job {
    id: String,
    model: Arc<ServedModel>,
    inputs: Vec<EngineRequest>,
    encoding: Encoding,
}

/// Parses, tokenizes and checks.
fn convert(incoming: &Incoming) -> Result<Job, ApiError> {
    let (mut fields, model) = incoming.fields()?;
    let limits = &model.engine.info().limits;
    limits.check_embeds()?;
    let id = incoming.answer_id("embd", &mut fields)?;
    let request = EmbeddingRequest::take(&mut fields, &incoming.state.config.limits)?;
    fields.finish();
    let pooling = PoolingParams { dimensions: request.dimensions, normalize: request.normalize };
    let max_tokens = request.truncate.map(|cut| cut.tokens(limits.tasks.max_embedded_len));
    let tokens_of = |input: Input| match input {
        Input::Text(text) => model.encode_cut(&text, request.add_special_tokens, max_tokens),
        Input::Tokens(mut tokens) => {
            tokens.truncate(max_tokens.unwrap_or(usize::MAX));
            tokens
        }
    };
    let num_inputs = request.inputs.len();
    let prepared = |(index, input)| {
        let request = EngineRequest {
            priority: request.priority,
            arrival: incoming.arrival,
            ..EngineRequest::embedding(tokens_of(input), pooling)
        };
        limits.check(&request).map_err(|mut error| {
            if num_inputs > 1 && error.param == "input" {
                error.message = format!("input {index}: {}", error.message);
            }
            ApiError::from(error)
        })?;
        Ok(request)
    };
    let inputs = request.inputs.into_iter().enumerate().map(prepared);
    let inputs = inputs.collect::<Result<_, ApiError>>()?;
    Ok(Job { id, inputs, encoding: request.encoding, model: Arc::clone(&model) })
}

impl Job {
    /// The embeddings in the order of the inputs, and how many tokens those had.
    async fn run(&self, state: &SharedState) -> Result<(Vec<Vec<f32>>, u64), ApiError> {
        let _in_flight = InFlight::new(Arc::clone(state));
        let mut aborting = state.aborting();
        let at_once = (self.model.engine.info().max_num_queued as usize).clamp(1, MAX_AT_ONCE);
        let embed = |index: usize| {
            let submitted = self.model.engine.generate(self.inputs[index].clone());
            let submitted = submitted.map_err(|error| refusal(state, &self.model, error));
            async move { embedding_of(submitted?).await }
        };
        let all = stream::iter(0..self.inputs.len()).map(embed).buffered(at_once);
        let all = all.try_collect::<Vec<_>>();
        let vectors = tokio::select! {
            vectors = all => vectors?,
            _ = aborting.wait_for(|&aborting| aborting) => {
                return Err(ApiError::unavailable("the server is shutting down", 1));
            }
        };
        state.drain_rate.record(Instant::now());
        let num_tokens = self.inputs.iter().map(|input| input.prompt.len() as u64).sum();
        Ok((vectors, num_tokens))
    }
}

/// Waits for the one embedding of a stream.
async fn embedding_of(mut events: TokenStream) -> Result<Vec<f32>, ApiError> {
    let mut embedding = None;
    while let Some(event) = events.next().await {
        match event {
            StreamEvent::Embedding(vector) => embedding = Some(vector),
            StreamEvent::Finished(finished) => {
                if let FinishReason::Error(message) = finished.reason {
                    return Err(ApiError::internal(message));
                }
                break;
            }
            StreamEvent::Started(_) | StreamEvent::Token(_) => {}
        }
    }
    embedding.ok_or_else(ApiError::engine_stopped)
}
