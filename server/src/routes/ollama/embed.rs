//! `POST /api/embed`, and the older `POST /api/embeddings` of one text.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use quire_engine::PoolingParams;
use serde_json::json;

use super::chat::window;
use super::durations::Clock;
use super::error::OllamaError;
use super::incoming::{Prepared, does_not_support, prepare};
use super::options::Options;
use crate::app::SharedState;
use crate::error::ApiError;
use crate::generation::embed::{EmbedJob, EmbedOptions, Input};
use crate::http;
use crate::http::fields::{Fields, OneOrMany};
use crate::routes::prepare::Incoming;
use crate::routes::truncation::TRUNCATED;

/// Checked texts as token ids.
struct Embedding {
    name: String,
    inputs: Option<EmbedJob>,
    clock: Clock,
    headers: HeaderMap,
}

pub(crate) async fn embed(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, OllamaError> {
    let prepared = prepare(&state, request, |_| false, convert_many).await?;
    let Prepared::Work(job) = prepared else {
        return Err(ApiError::internal("an embedding without an input").into());
    };
    let (vectors, num_tokens) = match &job.inputs {
        Some(inputs) => inputs.run(&state).await?,
        None => (Vec::new(), 0),
    };
    let body = json!({
        "model": job.name,
        "embeddings": vectors,
        "total_duration": job.clock.total(),
        "load_duration": job.clock.load(),
        "prompt_eval_count": num_tokens,
    });
    let mut response = http::json(StatusCode::OK, &body);
    response.headers_mut().extend(job.headers);
    Ok(response)
}

/// As long as the model makes it, not of length 1.
pub(crate) async fn embeddings(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, OllamaError> {
    let prepared = prepare(&state, request, |_| false, convert_one).await?;
    let Prepared::Work(Embedding { inputs: Some(job), headers, .. }) = prepared else {
        return Ok(http::json(StatusCode::OK, &json!({"embedding": []})));
    };
    let (mut vectors, _) = job.run(&state).await?;
    let body = json!({"embedding": vectors.pop().unwrap_or_default()});
    let mut response = http::json(StatusCode::OK, &body);
    response.headers_mut().extend(headers);
    Ok(response)
}

fn convert_many(incoming: &Incoming, name: &str) -> Result<Embedding, ApiError> {
    convert(incoming, name, "input", true)
}

fn convert_one(incoming: &Incoming, name: &str) -> Result<Embedding, ApiError> {
    convert(incoming, name, "prompt", false)
}

/// Parses, tokenizes and checks.
fn convert(
    incoming: &Incoming,
    name: &str,
    field: &'static str,
    normalize: bool,
) -> Result<Embedding, ApiError> {
    let (mut fields, model) = incoming.fields()?;
    let own = &model.engine.info().limits;
    own.check_embeds().map_err(|_| does_not_support(name, "embeddings"))?;
    let options = Options::read(&model, fields.take("options", "an object")?.unwrap_or_default())?;
    let truncate = fields.take_bool("truncate")?.unwrap_or(false);
    let dimensions = fields.take_u32("dimensions")?;
    let texts = take_texts(&mut fields, field, incoming.state.config.limits.max_inputs)?;
    fields.finish();

    let limit = window(&model, &options).min(own.tasks.max_embedded_len as usize);
    let mut num_cut = 0_u32;
    let mut inputs = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let tokens = model.encode(text, true);
        if tokens.len() <= limit {
            inputs.push(Input::Tokens(tokens));
        } else if truncate {
            inputs.push(Input::Tokens(model.encode_cut(text, true, Some(limit))));
            num_cut += 1;
        } else {
            return Err(ApiError::invalid(field, too_long(index, tokens.len(), limit)));
        }
    }
    let mut headers = HeaderMap::new();
    if num_cut > 0 {
        headers.insert(TRUNCATED, HeaderValue::from(num_cut));
    }
    let job = EmbedJob::new(
        &model,
        inputs,
        EmbedOptions {
            pooling: PoolingParams { dimensions, normalize: Some(normalize), second_text: None },
            add_special_tokens: true,
            max_tokens: None,
            priority: 0,
            arrival: incoming.arrival,
        },
    )?;
    let clock = Clock::new(incoming.arrival, incoming.load_time);
    let inputs = (!texts.is_empty()).then_some(job);
    Ok(Embedding { name: name.to_owned(), inputs, clock, headers })
}

/// Without texts the model is only to be loaded.
fn take_texts(
    fields: &mut Fields<'_>,
    field: &'static str,
    limit: usize,
) -> Result<Vec<String>, ApiError> {
    let texts = match fields.take(field, "a string or a list of strings")? {
        Some(OneOrMany::One(text)) if text.is_empty() => Vec::new(),
        given => given.map_or_else(Vec::new, OneOrMany::into_vec),
    };
    if texts.len() > limit {
        let message = format!("{field} has {} entries, over {limit} (--max-inputs)", texts.len());
        return Err(ApiError::invalid(field, message));
    }
    Ok(texts)
}

fn too_long(index: usize, num_tokens: usize, limit: usize) -> String {
    format!(
        "input {index} has {num_tokens} tokens, over {limit}; shorten it, or ask for truncate: true to cut off its end"
    )
}
