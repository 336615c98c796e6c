//! From inputs to embeddings: the requests to the engine, many at once, and what they yield.

use std::sync::Arc;
use std::time::Instant;

use futures_util::{StreamExt, TryStreamExt, stream};
use quire_engine::request::{FinishReason, StreamEvent, TokenId};
use quire_engine::{PoolingParams, Request, TokenStream};

use super::refusal;
use crate::app::{InFlight, SharedState};
use crate::error::ApiError;
use crate::model::ServedModel;
use crate::tenants::caller::Caller;
use crate::traces::Recording;

/// Inputs of one request that are in the engine at once; the others of the queue stay for other requests.
const MAX_AT_ONCE: usize = 256;

/// A text, or tokens as they are.
#[derive(Debug)]
pub(crate) enum Input {
    Text(String),
    Tokens(Vec<TokenId>),
}

/// What all inputs of a request share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EmbedOptions {
    pub pooling: PoolingParams,
    pub add_special_tokens: bool,
    /// `None`: an input that is too long is an error.
    pub max_tokens: Option<usize>,
    pub priority: i32,
    pub arrival: Instant,
}

/// Checked inputs as token ids.
pub(crate) struct EmbedJob {
    model: Arc<ServedModel>,
    inputs: Vec<Request>,
}

impl EmbedJob {
    /// Tokenizes and checks.
    pub(crate) fn new(
        model: &Arc<ServedModel>,
        inputs: Vec<Input>,
        options: EmbedOptions,
    ) -> Result<Self, ApiError> {
        let inputs = inputs.into_iter().map(|input| (input, options.pooling)).collect();
        Self::of_pooled(model, inputs, options)
    }

    /// As `new`, of inputs that are pooled each in its way, whatever `options` say.
    pub(crate) fn of_pooled(
        model: &Arc<ServedModel>,
        inputs: Vec<(Input, PoolingParams)>,
        options: EmbedOptions,
    ) -> Result<Self, ApiError> {
        let limits = &model.engine.info().limits;
        let tokens_of = |input: Input| match input {
            Input::Text(text) => {
                model.encode_cut(&text, options.add_special_tokens, options.max_tokens)
            }
            Input::Tokens(mut tokens) => {
                tokens.truncate(options.max_tokens.unwrap_or(usize::MAX));
                tokens
            }
        };
        let num_inputs = inputs.len();
        let prepared = |(index, (input, pooling))| {
            let request = Request {
                priority: options.priority,
                arrival: options.arrival,
                ..Request::embedding(tokens_of(input), pooling)
            };
            limits.check(&request).map_err(|mut error| {
                if num_inputs > 1 && error.param == "input" {
                    error.message = format!("input {index}: {}", error.message);
                }
                ApiError::from(error)
            })?;
            Ok(request)
        };
        let inputs = inputs.into_iter().enumerate().map(prepared);
        let inputs = inputs.collect::<Result<_, ApiError>>()?;
        Ok(Self { model: Arc::clone(model), inputs })
    }

    pub(crate) fn model_name(&self) -> &str {
        &self.model.name
    }

    /// The embeddings in the order of the inputs, and how many tokens those had.
    pub(crate) async fn run(&self, state: &SharedState) -> Result<(Vec<Vec<f32>>, u64), ApiError> {
        let _in_flight = InFlight::new(Arc::clone(state));
        let (caller, began) = (Caller::current(state), Instant::now());
        let num_tokens = self.inputs.iter().map(|input| input.prompt.len() as u64).sum();
        // Of a request's inputs some are in the queue at a time, and each gives its place to the next.
        let (_admission, _waiting) = caller.admit(state, &self.model, 1, num_tokens)?;
        let mut aborting = state.aborting();
        let at_once = (self.model.engine.info().max_num_queued as usize).clamp(1, MAX_AT_ONCE);
        let exporter = state.config.traces.as_ref();
        let named = ("embeddings", &*self.model.name);
        let mut recording = Recording::begin(exporter, caller.trace, named, began);
        if let Some(recording) = &mut recording {
            recording.used((num_tokens, 0, 0));
        }
        let embed = |index: usize| {
            let tenant = caller.tenant.of_engine();
            let request = Request { tenant, ..self.inputs[index].clone() };
            let submitted = self.model.engine.generate(request);
            let submitted = submitted.map_err(|error| refusal(state, &self.model, error));
            async move { embedding_of(submitted?).await }
        };
        let all = stream::iter(0..self.inputs.len()).map(embed).buffered(at_once);
        let all = all.try_collect::<Vec<_>>();
        let vectors = tokio::select! {
            vectors = all => vectors?,
            () = Caller::out_of_time(caller.deadline) => return Err(ApiError::deadline_exceeded()),
            _ = aborting.wait_for(|&aborting| aborting) => {
                return Err(ApiError::unavailable("the server is shutting down", 1));
            }
        };
        state.drain_rate.record(Instant::now());
        Ok((vectors, num_tokens))
    }
}

/// Waits for the one embedding of a stream.
async fn embedding_of(mut events: TokenStream) -> Result<Vec<f32>, ApiError> {
    let mut embedding = None;
    while let Some(event) = events.next().await {
        match event {
            StreamEvent::Embedding(vector) => embedding = Some(vector),
            StreamEvent::Finished(finished) => match finished.reason {
                FinishReason::Error(message) => return Err(ApiError::internal(message)),
                FinishReason::Stopped(message) => {
                    return Err(ApiError::unavailable(message, 1));
                }
                _ => break,
            },
            StreamEvent::Started(_) | StreamEvent::Drafts(_) | StreamEvent::Token(_) => {}
        }
    }
    embedding.ok_or_else(ApiError::engine_stopped)
}
