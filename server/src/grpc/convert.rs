//! Messages of `quire.v1` to what the engine is asked, and what it answers back to messages.

use std::time::Instant;

use quire_engine::request::{TokenId, TokenLogprobs, TokenOutput};
use quire_proto::v1;
use serde_json::json;

use crate::app::unix_time;
use crate::error::ApiError;
use crate::generation::sampling::{SamplingFields, check_cache_salt, check_n};
use crate::generation::{Finish, GenerationSpec, StopReason, TextOptions};
use crate::limits::ServerLimits;
use crate::model::ServedModel;
use crate::routes::messages;
use crate::structured::{Kind, StructuredOutput};
use crate::text::ChatInput;

/// `model` as the field of a message, where the empty name is no name.
pub(super) fn name_of(model: &str) -> Option<&str> {
    (!model.is_empty()).then_some(model)
}

/// `n` of a message, where 0 is 1.
pub(super) fn checked_n(
    field: &'static str,
    n: u32,
    limits: &ServerLimits,
) -> Result<u32, ApiError> {
    if n > limits.max_n {
        let message = format!("{field} must be at most {} (--max-n)", limits.max_n);
        return Err(ApiError::invalid(field, message));
    }
    Ok(n.max(1))
}

/// Tokenizes the prompt and resolves the parameters.
pub(super) fn generation_spec(
    request: v1::GenerateRequest,
    model: &ServedModel,
    limits: &ServerLimits,
    arrival: Instant,
) -> Result<GenerationSpec, ApiError> {
    use v1::generate_request::Prompt;
    model.engine.info().limits.check_generates()?;
    let prompt = match request.prompt {
        None => return Err(ApiError::invalid("prompt", "prompt is missing")),
        Some(Prompt::Text(text)) => model.encode(&text, true),
        Some(Prompt::TokenIds(tokens)) => tokens.ids,
        Some(Prompt::Chat(chat)) => chat_tokens(chat, model, limits)?,
    };
    check_cache_salt(&request.cache_salt)?;
    let mut given = request.sampling_params.unwrap_or_default();
    let structured_output = structured_output(given.structured_output.take())?;
    let (sampling, text) = sampling_fields(given);
    text.check(limits)?;
    let params = sampling.resolve(model)?;
    let n = checked_n("n", request.n, limits)?;
    check_n(n, &params)?;
    Ok(GenerationSpec {
        prompts: vec![prompt],
        n,
        params,
        structured_output,
        text,
        output: None,
        priority: request.priority,
        replica: None,
        cache_salt: Some(request.cache_salt).filter(|salt| !salt.is_empty()),
        arrival,
    })
}

/// The tokens of a conversation, written with the model's template.
pub(super) fn chat_tokens(
    chat: v1::Chat,
    model: &ServedModel,
    limits: &ServerLimits,
) -> Result<Vec<TokenId>, ApiError> {
    // As JSON, which templates take, a message is many times as large.
    messages::check_count(chat.messages.len(), limits)?;
    let message = |message: v1::Message| json!({"role": message.role, "content": message.content});
    let messages = messages::checked(chat.messages.into_iter().map(message).collect(), limits)?;
    model.encode_chat(&ChatInput {
        messages,
        add_generation_prompt: true,
        unix_seconds: unix_time() as i64,
        ..ChatInput::default()
    })
}

fn structured_output(
    asked: Option<v1::sampling_params::StructuredOutput>,
) -> Result<Option<StructuredOutput>, ApiError> {
    use v1::sampling_params::StructuredOutput as Asked;
    let (field, kind) = match asked {
        None | Some(Asked::JsonObject(false)) => return Ok(None),
        Some(Asked::JsonObject(true)) => ("json_object", Kind::JsonObject),
        Some(Asked::JsonSchema(text)) => ("json_schema", Kind::of_schema("json_schema", &text)?),
        Some(Asked::Regex(regex)) => ("regex", Kind::Regex(regex)),
        Some(Asked::Choice(choice)) => ("choice", Kind::Choice(choice.choices)),
        Some(Asked::Grammar(grammar)) => ("grammar", Kind::Grammar(grammar)),
        Some(Asked::StructuralTag(text)) => {
            ("structural_tag", Kind::of_structural_tag("structural_tag", &text)?)
        }
    };
    Ok(Some(StructuredOutput::new(field, kind)))
}

fn sampling_fields(given: v1::SamplingParams) -> (SamplingFields, TextOptions) {
    let text = TextOptions {
        stop: given.stop,
        include_stop: given.include_stop,
        skip_special_tokens: given.skip_special_tokens.unwrap_or(true),
        every_token: true,
    };
    let fields = SamplingFields {
        max_tokens: given.max_tokens,
        min_tokens: given.min_tokens,
        temperature: given.temperature,
        top_k: given.top_k.map(i64::from),
        top_p: given.top_p,
        min_p: given.min_p,
        repetition_penalty: given.repetition_penalty,
        presence_penalty: given.presence_penalty,
        frequency_penalty: given.frequency_penalty,
        seed: given.seed,
        stop_token_ids: given.stop_token_ids,
        ignore_eos: given.ignore_eos,
        logit_bias: given.logit_bias.into_iter().collect(),
        allowed_token_ids: given.allowed_token_ids.map(|tokens| tokens.ids),
        bad_words: given.bad_words,
        logprobs: given.logprobs,
        prompt_logprobs: given.prompt_logprobs,
    };
    (fields, text)
}

/// What is known of the prompt's tokens: of the first one nothing.
pub(super) fn prompt_logprobs(
    prompt: &[TokenId],
    known: &[Option<TokenLogprobs>],
) -> Vec<v1::TokenLogprobs> {
    let known = prompt.iter().zip(known);
    known.filter_map(|(&id, known)| Some(logprobs_of(id, known.as_ref()?))).collect()
}

/// Ids, and log probabilities where they were asked for.
pub(super) fn tokens_of(tokens: &[TokenOutput]) -> (Vec<TokenId>, Vec<v1::TokenLogprobs>) {
    let ids = tokens.iter().map(|output| output.token).collect();
    let known = |output: &TokenOutput| Some(logprobs_of(output.token, output.logprobs.as_ref()?));
    (ids, tokens.iter().filter_map(known).collect())
}

fn logprobs_of(id: TokenId, known: &TokenLogprobs) -> v1::TokenLogprobs {
    let top = known.top.iter().map(|&(id, logprob)| v1::TopLogprob { id, logprob }).collect();
    v1::TokenLogprobs { id, logprob: known.logprob, rank: known.rank, top }
}

pub(super) fn finished(finish: Finish, num_output_tokens: u32) -> v1::Finished {
    let reason = match finish.reason {
        "stop" => v1::finished::Reason::Stop,
        "length" => v1::finished::Reason::Length,
        _ => v1::finished::Reason::Abort,
    };
    let stop_reason = finish.stop_reason.map(|reason| match reason {
        StopReason::Token(token) => v1::finished::StopReason::StopTokenId(token),
        StopReason::Text(text) => v1::finished::StopReason::StopString(text),
    });
    v1::Finished { reason: reason.into(), stop_reason, num_output_tokens }
}
