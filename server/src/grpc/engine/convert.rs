//! Messages of `vllm.grpc.engine` to what the engine is asked, and what it answers back to messages.

use std::time::Instant;

use quire_engine::request::{TokenId, TokenLogprobs, TokenOutput};
use quire_proto::engine as proto;
use quire_proto::engine::complete::MatchedStop;
use quire_proto::engine::generate_request::Input;
use quire_proto::engine::sampling_params::Constraint;

use crate::error::ApiError;
use crate::generation::sampling::{SamplingFields, check_n};
use crate::generation::{Finish, GenerationSpec, StopReason, TextOptions};
use crate::grpc::convert::checked_n;
use crate::limits::ServerLimits;
use crate::model::ServedModel;
use crate::routes::truncation::Truncation;
use crate::structured::{Kind, StructuredOutput};

/// Tokenizes where needed, resolves the parameters, and refuses what is not supported.
pub(super) fn generation_spec(
    request: proto::GenerateRequest,
    model: &ServedModel,
    limits: &ServerLimits,
    arrival: Instant,
) -> Result<GenerationSpec, ApiError> {
    model.engine.info().limits.check_generates()?;
    let given = request.sampling_params.unwrap_or_default();
    let refused = [
        ("kv_transfer_params", request.kv_transfer_params.is_some()),
        ("kv_transfer_params_json", request.kv_transfer_params_json.is_some()),
        ("mm_inputs", request.mm_inputs.is_some()),
    ];
    if let Some((field, _)) = refused.into_iter().find(|&(_, is_given)| is_given) {
        return Err(ApiError::invalid(field, format!("{field} is not supported")));
    }
    let mut prompt = match request.input {
        None => return Err(ApiError::invalid("input", "input is missing")),
        Some(Input::Text(text)) => model.encode(&text, true),
        Some(Input::Tokenized(tokens)) => tokens.input_ids,
    };
    if let Some(tokens) = given.truncate_prompt_tokens {
        let max_model_len = model.engine.info().limits.max_model_len;
        let truncation = Truncation::keeping_end(tokens)?;
        truncation.cut(&mut prompt, max_model_len, given.max_tokens.unwrap_or(1));
    }
    let rank = request.data_parallel_rank.map(|rank| number("data_parallel_rank", rank));
    let structured_output = structured_output(given.constraint.clone())?;
    let (n, text) = (checked_n("n", given.n, limits)?, text_options(&given));
    text.check(limits)?;
    let params = sampling_fields(given)?.resolve(model)?;
    check_n(n, &params)?;
    Ok(GenerationSpec {
        prompts: vec![prompt],
        n,
        params,
        structured_output,
        text,
        output: None,
        priority: 0,
        replica: rank.transpose()?,
        cache_salt: None,
        arrival,
    })
}

fn structured_output(constraint: Option<Constraint>) -> Result<Option<StructuredOutput>, ApiError> {
    let (field, kind) = match constraint {
        None | Some(Constraint::JsonObject(false)) => return Ok(None),
        Some(Constraint::JsonObject(true)) => ("json_object", Kind::JsonObject),
        Some(Constraint::JsonSchema(text)) => {
            ("json_schema", Kind::of_schema("json_schema", &text)?)
        }
        Some(Constraint::Regex(regex)) => ("regex", Kind::Regex(regex)),
        Some(Constraint::Grammar(grammar)) => ("grammar", Kind::Grammar(grammar)),
        Some(Constraint::Choice(choice)) => ("choice", Kind::Choice(choice.choices)),
        Some(Constraint::StructuralTag(text)) => {
            ("structural_tag", Kind::of_structural_tag("structural_tag", &text)?)
        }
    };
    Ok(Some(StructuredOutput::new(field, kind)))
}

fn text_options(given: &proto::SamplingParams) -> TextOptions {
    TextOptions {
        stop: given.stop.clone(),
        include_stop: given.include_stop_str_in_output,
        skip_special_tokens: given.skip_special_tokens,
        every_token: true,
    }
}

fn sampling_fields(given: proto::SamplingParams) -> Result<SamplingFields, ApiError> {
    let is_given = |value: f32| (value != 0.0).then_some(value);
    let count = |field, count: Option<i32>| count.map(|count| number(field, count)).transpose();
    let bias = |(id, bias): (i32, f32)| Ok::<_, ApiError>((number("logit_bias", id)?, bias));
    Ok(SamplingFields {
        max_tokens: given.max_tokens,
        min_tokens: Some(given.min_tokens),
        temperature: given.temperature,
        top_k: Some(i64::from(given.top_k)),
        top_p: is_given(given.top_p),
        min_p: Some(given.min_p),
        repetition_penalty: is_given(given.repetition_penalty),
        presence_penalty: Some(given.presence_penalty),
        frequency_penalty: Some(given.frequency_penalty),
        seed: given.seed.map(|seed| i64::from(seed) as u64),
        stop_token_ids: given.stop_token_ids,
        ignore_eos: Some(given.ignore_eos),
        logit_bias: given.logit_bias.into_iter().map(bias).collect::<Result<_, _>>()?,
        logprobs: count("logprobs", given.logprobs)?,
        prompt_logprobs: count("prompt_logprobs", given.prompt_logprobs)?,
        ..SamplingFields::default()
    })
}

/// A number of the contract that is signed and must not be negative.
fn number(field: &'static str, value: i32) -> Result<u32, ApiError> {
    u32::try_from(value)
        .map_err(|_| ApiError::invalid(field, format!("{field} must not be negative, not {value}")))
}

pub(super) fn output_logprobs(tokens: &[TokenOutput]) -> Option<proto::OutputLogprobs> {
    let known: Vec<(TokenId, &TokenLogprobs)> =
        tokens.iter().filter_map(|o| Some((o.token, o.logprobs.as_ref()?))).collect();
    (!known.is_empty()).then(|| proto::OutputLogprobs {
        token_logprobs: known.iter().map(|(_, known)| known.logprob).collect(),
        token_ids: known.iter().map(|&(token, _)| token).collect(),
        top_logprobs: known.iter().map(|(_, known)| top(known)).collect(),
    })
}

pub(super) fn input_logprobs(
    prompt: &[TokenId],
    known: &[Option<TokenLogprobs>],
) -> Option<proto::InputLogprobs> {
    let value = |known: &Option<TokenLogprobs>| known.as_ref().map(|known| known.logprob);
    (!known.is_empty()).then(|| proto::InputLogprobs {
        token_logprobs: known.iter().map(|k| proto::InputLogprob { value: value(k) }).collect(),
        token_ids: prompt.to_vec(),
        top_logprobs: known
            .iter()
            .map(|known| known.as_ref().map(top).unwrap_or_default())
            .collect(),
    })
}

fn top(known: &TokenLogprobs) -> proto::TopLogprobs {
    let (token_ids, values) = known.top.iter().copied().unzip();
    proto::TopLogprobs { values, token_ids }
}

pub(super) fn matched_stop(finish: &Finish) -> Option<MatchedStop> {
    Some(match finish.stop_reason.clone()? {
        StopReason::Token(token) => MatchedStop::MatchedTokenId(token),
        StopReason::Text(text) => MatchedStop::MatchedStopStr(text),
    })
}
