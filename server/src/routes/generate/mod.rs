//! `POST /inference/v1/generate`: token ids in, token ids out, for routers that tokenize themselves.

mod types;
mod validate;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use quire_engine::request::{TokenId, TokenOutput};

pub(crate) use validate::{BANNED_TOKENS, UNSUPPORTED, UNSUPPORTED_SAMPLING};

use types::{Choice, Chunk, Generated};
use validate::TokensRequest;

use crate::app::SharedState;
use crate::error::ApiError;
use crate::generation::logprobs::{ChatLogprobs, TokenNames, prompt_logprobs};
use crate::generation::sse::{self, SseBuffer, SseInput};
use crate::generation::{Answer, ChoiceEvent, Finish, Generation, GenerationSpec, UsageCount};
use crate::http;
use crate::model::ServedModel;
use crate::openapi::doc::{Answer as DocAnswer, schema_of};
use crate::routes::prepare::{Incoming, prepare};

/// For the document of the API.
pub(crate) const ANSWER: DocAnswer =
    DocAnswer::JsonOrStream(schema_of::<Generated<'static>>, schema_of::<Chunk<'static>>);

pub(crate) async fn generate(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, ApiError> {
    let (frame, spec) = prepare(&state, request, convert).await?;
    let generation =
        Generation::submit(&state, &frame.model, &spec).await.map_err(validate::blame)?;
    if frame.request.stream {
        return Ok(frame.stream(&state, generation));
    }
    let (answers, usage) = generation.collect().await?;
    Ok(http::json(StatusCode::OK, &frame.generated(answers, usage)))
}

/// What all parts of one response share.
struct Frame {
    id: String,
    model: Arc<ServedModel>,
    prompt: Vec<TokenId>,
    request: TokensRequest,
}

fn convert(incoming: &Incoming) -> Result<(Frame, GenerationSpec), ApiError> {
    let (mut fields, model) = incoming.fields()?;
    model.engine.info().limits.check_generates()?;
    let id = incoming.request_id(&mut fields)?;
    let limits = &incoming.state.config.limits;
    let (request, prompt) = TokensRequest::take(&mut fields, &model, limits)?;
    fields.finish();
    let spec = GenerationSpec {
        prompts: vec![prompt.clone()],
        n: request.n,
        params: request.params.clone(),
        structured_output: request.structured_output.clone(),
        text: request.text.clone(),
        output: None,
        priority: request.priority.or(incoming.routing.priority).unwrap_or(0),
        replica: incoming.routing.replica,
        cache_salt: request.cache_salt.clone(),
        arrival: incoming.arrival,
    };
    Ok((Frame { id, model, prompt, request }, spec))
}

impl Frame {
    fn generated(&self, answers: Vec<Answer>, usage: UsageCount) -> Generated<'_> {
        let prompt_logprobs =
            self.request.params.prompt_logprobs.zip(answers.first()).map(|(count, first)| {
                prompt_logprobs(self.names(), &self.prompt, &first.prompt_logprobs, count)
            });
        let choice = |(index, answer): (usize, Answer)| {
            let finish = answer.finish.unwrap_or(Finish { reason: "abort", stop_reason: None });
            self.choice(index, &answer.tokens, Some(finish))
        };
        Generated {
            request_id: &self.id,
            choices: answers.into_iter().enumerate().map(choice).collect(),
            prompt_logprobs,
            kv_transfer_params: None,
            usage: usage.into(),
        }
    }

    fn choice(&self, index: usize, tokens: &[TokenOutput], finish: Option<Finish>) -> Choice {
        let logprobs = self.request.params.logprobs;
        Choice {
            index,
            logprobs: logprobs.map(|_| ChatLogprobs::new(self.names(), tokens)),
            finish_reason: finish.as_ref().map(|finish| finish.reason),
            stop_reason: finish.and_then(|finish| finish.stop_reason),
            token_ids: tokens.iter().map(|output| output.token).collect(),
        }
    }

    fn stream(self, state: &SharedState, generation: Generation) -> Response {
        let options = self.request.stream_options;
        let render = move |input: SseInput, usage: UsageCount, out: &mut SseBuffer| {
            let choice = match input {
                SseInput::Event(index, ChoiceEvent::Delta(delta)) => {
                    Some(self.choice(index, &delta.tokens, delta.finish))
                }
                SseInput::End if options.include_usage => None,
                SseInput::End | SseInput::Event(..) => return,
            };
            let has_usage =
                choice.is_none() || options.continuous_usage_stats && options.include_usage;
            out.push(&Chunk {
                request_id: &self.id,
                choices: choice.into_iter().collect(),
                usage: has_usage.then(|| usage.into()),
            });
        };
        sse::respond(&sse::OPENAI, generation, state.config.sse_keep_alive_interval, render)
    }

    /// Who sends ids knows no texts.
    fn names(&self) -> TokenNames<'_> {
        TokenNames { model: &self.model, as_ids: true }
    }
}
