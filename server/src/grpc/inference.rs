//! `quire.v1.Inference`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use quire_engine::PoolingParams;
use quire_engine::request::TokenId;
use quire_proto::v1;
use quire_proto::v1::generate_event::Event;
use quire_proto::v1::inference_server::Inference;
use tonic::{Request, Response, Status};

use super::answer::Answers;
use super::bodies::Held;
use super::convert;
use super::running::{Place, Running, owner_of};
use super::stall;
use crate::app::SharedState;
use crate::error::ApiError;
use crate::generation::embed::{EmbedJob, EmbedOptions, Input};
use crate::generation::{ChoiceEvent, Generation};

type EventStream = Pin<Box<dyn Stream<Item = Result<v1::GenerateEvent, Status>> + Send>>;

pub(super) struct Service {
    state: SharedState,
    running: Arc<Running>,
}

/// An answer in the making, and what its messages need to know.
struct Call {
    answers: Answers,
    prompt: Vec<TokenId>,
    /// Of each answer.
    num_output_tokens: Vec<u32>,
}

impl Service {
    pub(super) fn new(state: SharedState, running: Arc<Running>) -> Self {
        Self { state, running }
    }

    async fn begin(&self, request: Request<v1::GenerateRequest>) -> Result<Call, ApiError> {
        let arrival = Instant::now();
        let (owner, held) = (owner_of(&request), Held::of(&request));
        let mut request = request.into_inner();
        let id = std::mem::take(&mut request.request_id);
        let place: Place = self.running.register(owner, id)?;
        let model = self.state.models.get(convert::name_of(&request.model)).await?;
        let size = request.encoded_len();
        let (state, served) = (Arc::clone(&self.state), Arc::clone(&model));
        let work =
            move || convert::generation_spec(request, &served, &state.config.limits, arrival);
        let mut spec = held.convert(&self.state, size, work).await?;
        let generation = Generation::submit(&self.state, &model, &spec).await?;
        let num_output_tokens = vec![0; generation.num_choices()];
        let prompt = spec.prompts.pop().unwrap_or_default();
        Ok(Call { answers: Answers::new(generation, place), prompt, num_output_tokens })
    }
}

impl Call {
    /// The messages of the next step; `None` when all answers are over.
    async fn next(&mut self) -> Option<Result<Vec<v1::GenerateEvent>, Status>> {
        let (index, event) = self.answers.next().await?;
        let message = |event| v1::GenerateEvent { index: index as u32, event: Some(event) };
        match event {
            ChoiceEvent::Failed(error) => Some(Err(error.into())),
            ChoiceEvent::Started(started) => Some(Ok(vec![message(Event::Started(v1::Started {
                num_prompt_tokens: self.prompt.len() as u32,
                num_cached_tokens: started.num_cached_tokens,
                prompt_logprobs: convert::prompt_logprobs(&self.prompt, &started.prompt_logprobs),
                request_id: self.answers.request_id().to_owned(),
            }))])),
            ChoiceEvent::Delta(delta) => {
                let count = &mut self.num_output_tokens[index];
                *count += delta.tokens.len() as u32;
                let mut messages = Vec::with_capacity(2);
                if !delta.text.is_empty() || !delta.tokens.is_empty() {
                    let (token_ids, logprobs) = convert::tokens_of(&delta.tokens);
                    let delta = v1::Delta { text: delta.text, token_ids, logprobs };
                    messages.push(message(Event::Delta(delta)));
                }
                if let Some(finish) = delta.finish {
                    messages.push(message(Event::Finished(convert::finished(finish, *count))));
                }
                Some(Ok(messages))
            }
        }
    }

    async fn collect(mut self) -> Result<v1::GenerateResponse, Status> {
        let mut response = v1::GenerateResponse {
            request_id: self.answers.request_id().to_owned(),
            num_prompt_tokens: self.prompt.len() as u32,
            answers: vec![v1::Answer::default(); self.answers.num_choices()],
            ..v1::GenerateResponse::default()
        };
        while let Some(messages) = self.next().await {
            for message in messages? {
                let answer = &mut response.answers[message.index as usize];
                match message.event {
                    Some(Event::Started(started)) if message.index == 0 => {
                        response.num_cached_tokens = started.num_cached_tokens;
                        response.prompt_logprobs = started.prompt_logprobs;
                    }
                    Some(Event::Delta(delta)) => {
                        answer.text.push_str(&delta.text);
                        answer.token_ids.extend(delta.token_ids);
                        answer.logprobs.extend(delta.logprobs);
                    }
                    Some(Event::Finished(finished)) => answer.finished = Some(finished),
                    Some(Event::Started(_)) | None => {}
                }
            }
        }
        Ok(response)
    }
}

#[tonic::async_trait]
impl Inference for Service {
    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<v1::GenerateResponse>, Status> {
        let call = self.begin(request).await?;
        Ok(Response::new(call.collect().await?))
    }

    type GenerateStreamStream = EventStream;

    async fn generate_stream(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<EventStream>, Status> {
        let call = self.begin(request).await?;
        let steps = stream::unfold(call, async |mut call| {
            let messages = match call.next().await? {
                Ok(messages) => messages.into_iter().map(Ok).collect(),
                Err(status) => vec![Err(status)],
            };
            Some((stream::iter(messages), call))
        });
        let timeout = self.state.config.limits.write_timeout;
        Ok(Response::new(stall::watched(steps.flatten(), timeout)))
    }

    async fn embed(
        &self,
        request: Request<v1::EmbedRequest>,
    ) -> Result<Response<v1::EmbedResponse>, Status> {
        let arrival = Instant::now();
        let held = Held::of(&request);
        let request = request.into_inner();
        let model = self.state.models.get(convert::name_of(&request.model)).await?;
        model.engine.info().limits.check_embeds().map_err(ApiError::from)?;
        let max_inputs = self.state.config.limits.max_inputs;
        let work = {
            let size = request.encoded_len();
            let work = move || embed_job(request, &model, max_inputs, arrival);
            held.convert(&self.state, size, work)
        };
        let (vectors, num_prompt_tokens) = work.await?.run(&self.state).await?;
        let embeddings = vectors.into_iter().map(|values| v1::Embedding { values }).collect();
        Ok(Response::new(v1::EmbedResponse { embeddings, num_prompt_tokens }))
    }

    async fn tokenize(
        &self,
        request: Request<v1::TokenizeRequest>,
    ) -> Result<Response<v1::TokenizeResponse>, Status> {
        use v1::tokenize_request::Prompt;
        let held = Held::of(&request);
        let request = request.into_inner();
        let model = self.state.models.get(convert::name_of(&request.model)).await?;
        let max_model_len = model.engine.info().limits.max_model_len;
        let (size, state) = (request.encoded_len(), Arc::clone(&self.state));
        let work = move || match request.prompt {
            None => Err(ApiError::invalid("prompt", "prompt is missing")),
            Some(Prompt::Text(text)) => {
                Ok(model.encode(&text, request.add_special_tokens.unwrap_or(true)))
            }
            Some(Prompt::Chat(chat)) => convert::chat_tokens(chat, &model, &state.config.limits),
        };
        let ids = held.convert(&self.state, size, work).await?;
        Ok(Response::new(v1::TokenizeResponse { ids, max_model_len }))
    }

    async fn models(
        &self,
        _request: Request<v1::ModelsRequest>,
    ) -> Result<Response<v1::ModelsResponse>, Status> {
        if !self.state.models.is_started() {
            return Err(ApiError::loading().into());
        }
        let mut models = Vec::new();
        for entry in self.state.models.entries() {
            // Of a model that is not loaded now, its limits are not known.
            let limits = entry.peek().map(|model| model.engine.info().limits.clone());
            models.extend(entry.names().iter().map(|name| v1::Model {
                id: name.clone(),
                max_model_len: limits.as_ref().map_or(0, |limits| limits.max_model_len),
                vocab_size: limits.as_ref().map_or(0, |limits| limits.vocab_size),
            }));
        }
        Ok(Response::new(v1::ModelsResponse { models }))
    }

    async fn abort(
        &self,
        request: Request<v1::AbortRequest>,
    ) -> Result<Response<v1::AbortResponse>, Status> {
        let owner = owner_of(&request);
        let num_aborted = self.running.abort(owner, &request.into_inner().request_ids);
        Ok(Response::new(v1::AbortResponse { num_aborted }))
    }
}

fn embed_job(
    request: v1::EmbedRequest,
    model: &Arc<crate::model::ServedModel>,
    max_inputs: usize,
    arrival: Instant,
) -> Result<EmbedJob, ApiError> {
    use v1::embed_input::Input as Given;
    if request.inputs.is_empty() {
        return Err(ApiError::invalid("inputs", "inputs has no entries"));
    }
    if request.inputs.len() > max_inputs {
        let message = format!(
            "inputs has {} entries, over {max_inputs} (--max-inputs)",
            request.inputs.len()
        );
        return Err(ApiError::invalid("inputs", message));
    }
    if request.truncate == Some(0) {
        return Err(ApiError::invalid("truncate", "truncate must be at least 1"));
    }
    let input = |input: v1::EmbedInput| match input.input {
        None => Err(ApiError::invalid("inputs", "an input is empty")),
        Some(Given::Text(text)) => Ok(Input::Text(text)),
        Some(Given::TokenIds(tokens)) => Ok(Input::Tokens(tokens.ids)),
    };
    let inputs = request.inputs.into_iter().map(input).collect::<Result<_, _>>()?;
    let options = EmbedOptions {
        pooling: PoolingParams {
            dimensions: request.dimensions,
            normalize: request.normalize,
            second_text: None,
        },
        add_special_tokens: true,
        max_tokens: request.truncate.map(|tokens| tokens as usize),
        priority: request.priority,
        arrival,
    };
    EmbedJob::new(model, inputs, options)
}
