//! `POST /v1/completions/render` and `POST /v1/chat/completions/render`: what `/inference/v1/generate` would be sent for the
//! same body, so that routers see tokens without a tokenizer of their own.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use quire_engine::request::TokenId;
use serde_json::{Map, Value, json};

use super::generate::BANNED_TOKENS;
use super::prepare::{Converted, prepare};
use super::{chat_completions, completions};
use crate::app::SharedState;
use crate::error::ApiError;
use crate::generation::GenerationSpec;
use crate::http;
use crate::structured::{Kind, StructuredOutput};

pub(crate) async fn completion(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, ApiError> {
    let rendered =
        prepare(&state, request, |incoming| Ok(rendered(&completions::spec_of(incoming)?))).await?;
    Ok(http::json(StatusCode::OK, &rendered))
}

pub(crate) async fn chat(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, ApiError> {
    let mut rendered =
        prepare(&state, request, |incoming| Ok(rendered(&chat_completions::spec_of(incoming)?)))
            .await?;
    Ok(http::json(StatusCode::OK, &rendered.pop()))
}

/// A request for each prompt.
fn rendered(Converted { id, model, spec }: &Converted) -> Vec<Value> {
    let max_model_len = model.engine.info().limits.max_model_len;
    let several = spec.prompts.len() > 1;
    let one = |(index, prompt): (usize, &Vec<TokenId>)| {
        let request_id = if several { format!("{id}-{index}") } else { id.clone() };
        json!({
            "request_id": request_id,
            "token_ids": prompt,
            "features": null,
            "sampling_params": sampling_params(spec, max_model_len, prompt.len()),
            "model": model.name,
            "stream": false,
            "stream_options": null,
            "cache_salt": spec.cache_salt,
            "priority": spec.priority,
            "kv_transfer_params": null,
        })
    };
    spec.prompts.iter().enumerate().map(one).collect()
}

/// In the names of vLLM's `SamplingParams`.
fn sampling_params(spec: &GenerationSpec, max_model_len: u32, num_prompt_tokens: usize) -> Value {
    let params = &spec.params;
    let room = max_model_len.saturating_sub(num_prompt_tokens as u32);
    let bias = params.logit_bias.iter().map(|(token, bias)| (token.to_string(), json!(bias)));
    json!({
        "n": spec.n,
        "max_tokens": params.max_tokens.unwrap_or(room),
        "min_tokens": params.min_tokens,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "seed": params.seed.map(|seed| seed as i64),
        "stop": spec.text.stop,
        "stop_token_ids": params.stop_token_ids,
        "include_stop_str_in_output": spec.text.include_stop,
        "skip_special_tokens": spec.text.skip_special_tokens,
        "ignore_eos": params.ignore_eos,
        "logit_bias": bias.collect::<Map<String, Value>>(),
        "allowed_token_ids": params.allowed_token_ids,
        BANNED_TOKENS: params.banned_token_ids,
        "logprobs": params.logprobs,
        "prompt_logprobs": params.prompt_logprobs,
        "structured_outputs": spec.structured_output.as_ref().map(structured_outputs),
    })
}

/// In vLLM's names.
fn structured_outputs(asked: &StructuredOutput) -> Value {
    let mut fields = match &asked.kind {
        Kind::JsonObject => json!({"json_object": true}),
        Kind::Json(schema) => json!({"json": schema}),
        Kind::Regex(regex) => json!({"regex": regex}),
        Kind::Choice(choices) => json!({"choice": choices}),
        Kind::Grammar(grammar) => json!({"grammar": grammar}),
        Kind::StructuralTag(tag) => json!({"structural_tag": tag.to_string()}),
    };
    fields["disable_any_whitespace"] = asked.is_compact.into();
    fields
}
