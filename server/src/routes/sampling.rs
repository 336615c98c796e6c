//! The fields that chat and completions share: how to sample, when to stop, how to answer.

use std::collections::BTreeMap;

use quire_engine::request::{SamplingParams, TokenId};
use serde::Deserialize;

use crate::error::{ApiError, shortened};
use crate::generation::TextOptions;
use crate::generation::sampling::{SamplingFields, check_cache_salt, check_n};
use crate::http::fields::{Fields, NeutralOnly, OneOrMany};
use crate::limits::ServerLimits;
use crate::model::ServedModel;
use crate::routes::truncation::Truncation;
use crate::structured::{self, StructuredOutput};

/// What the shared fields came to.
#[derive(Debug)]
pub(crate) struct CommonFields {
    pub n: u32,
    /// Without `max_tokens` and the log probabilities, which the two routes name differently.
    pub params: SamplingParams,
    pub structured_output: Option<StructuredOutput>,
    pub text: TextOptions,
    pub stream: bool,
    pub stream_options: StreamOptions,
    /// `None`: the headers may say.
    pub priority: Option<i32>,
    pub cache_salt: Option<String>,
    pub truncation: Option<Truncation>,
    pub return_token_ids: bool,
    pub tokens_as_ids: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StreamOptions {
    #[serde(deserialize_with = "null_is_false")]
    pub include_usage: bool,
    #[serde(deserialize_with = "null_is_false")]
    pub continuous_usage_stats: bool,
}

/// Known fields without support, and the values that ask for nothing.
pub(crate) const UNSUPPORTED: &[NeutralOnly] = &[
    NeutralOnly("use_beam_search", &["false"]),
    NeutralOnly("length_penalty", &["1", "1.0"]),
    NeutralOnly("early_stopping", &["false"]),
    NeutralOnly("logprob_token_ids", &[]),
    NeutralOnly("spaces_between_special_tokens", &["true"]),
    NeutralOnly("media_io_kwargs", &["{}"]),
    NeutralOnly("mm_processor_kwargs", &["{}"]),
    NeutralOnly("mm_payload", &[r#""tensors""#]),
    NeutralOnly("return_mm_kwargs", &["false"]),
    NeutralOnly("return_weight_versions", &["false"]),
    NeutralOnly("routed_experts_prompt_start", &["0"]),
    NeutralOnly("return_token_offsets", &["false"]),
    NeutralOnly("kv_transfer_params", &[]),
    NeutralOnly("ec_transfer_params", &[]),
    NeutralOnly("vllm_xargs", &["{}"]),
    NeutralOnly("repetition_detection", &[]),
    NeutralOnly("stream_interval", &["1"]),
    NeutralOnly("thinking_token_budget", &[]),
    NeutralOnly("watermarking", &["false"]),
    NeutralOnly("web_search_options", &[]),
    NeutralOnly("verbosity", &[r#""medium""#]),
    // Samplers of other servers, with what turns them off.
    NeutralOnly("typical_p", &["1", "1.0"]),
    NeutralOnly("mirostat", &["0"]),
    NeutralOnly("dry_multiplier", &["0", "0.0"]),
    NeutralOnly("xtc_probability", &["0", "0.0"]),
];

impl CommonFields {
    pub(crate) fn take(
        fields: &mut Fields<'_>,
        model: &ServedModel,
        limits: &ServerLimits,
    ) -> Result<Self, ApiError> {
        fields.reject_unsupported(UNSUPPORTED)?;
        fields.take_string("user")?;
        fields.take_string("session_id")?;
        let params = take_sampling(fields)?.resolve(model)?;
        let n = fields.take_integer("n", 1, i64::from(limits.max_n))?.unwrap_or(1) as u32;
        check_n(n, &params)?;
        let stream = fields.take_bool("stream")?.unwrap_or(false);
        let stream_options = take_stream_options(fields, stream)?;
        let priority = fields.take_integer("priority", i64::from(i32::MIN), i64::from(i32::MAX))?;
        Ok(Self {
            n,
            params,
            structured_output: structured::fields::take(fields)?,
            text: take_text_options(fields, limits)?,
            stream,
            stream_options,
            priority: priority.map(|priority| priority as i32),
            cache_salt: take_cache_salt(fields)?,
            truncation: Truncation::take(fields)?,
            return_token_ids: fields.take_bool("return_token_ids")?.unwrap_or(false),
            tokens_as_ids: fields.take_bool("return_tokens_as_token_ids")?.unwrap_or(false),
        })
    }
}

/// `prompt_logprobs`, which a stream has no place for.
pub(crate) fn take_prompt_logprobs(
    fields: &mut Fields<'_>,
    stream: bool,
) -> Result<Option<u32>, ApiError> {
    let count = fields.take_u32("prompt_logprobs")?;
    if stream && count.is_some() {
        let message = "prompt_logprobs is not available with stream";
        return Err(ApiError::invalid("prompt_logprobs", message));
    }
    Ok(count)
}

pub(crate) fn take_sampling(fields: &mut Fields<'_>) -> Result<SamplingFields, ApiError> {
    Ok(SamplingFields {
        max_tokens: None,
        min_tokens: fields.take_u32("min_tokens")?,
        temperature: fields.take_f32("temperature")?,
        top_k: fields.take_integer("top_k", -1, i64::from(u32::MAX))?,
        top_p: fields.take_f32("top_p")?,
        min_p: fields.take_f32("min_p")?,
        repetition_penalty: fields.take_f32("repetition_penalty")?,
        presence_penalty: fields.take_f32("presence_penalty")?,
        frequency_penalty: fields.take_f32("frequency_penalty")?,
        seed: fields.take_integer("seed", i64::MIN, i64::MAX)?.map(|seed| seed as u64),
        stop_token_ids: fields.take_ids("stop_token_ids")?.unwrap_or_default(),
        ignore_eos: fields.take_bool("ignore_eos")?,
        logit_bias: take_logit_bias(fields)?,
        allowed_token_ids: fields.take_ids("allowed_token_ids")?,
        bad_words: fields.take("bad_words", "a list of strings")?.unwrap_or_default(),
        logprobs: None,
        prompt_logprobs: None,
    })
}

fn take_logit_bias(fields: &mut Fields<'_>) -> Result<Vec<(TokenId, f32)>, ApiError> {
    let expected = "an object from token ids to numbers";
    let given: Option<BTreeMap<String, f64>> = fields.take("logit_bias", expected)?;
    let entry = |(id, bias): (String, f64)| {
        let Ok(token) = id.parse() else {
            let message = format!("the key {:?} of logit_bias is not a token id", shortened(&id));
            return Err(ApiError::invalid("logit_bias", message));
        };
        Ok((token, bias as f32))
    };
    given.unwrap_or_default().into_iter().map(entry).collect()
}

pub(crate) fn take_text_options(
    fields: &mut Fields<'_>,
    limits: &ServerLimits,
) -> Result<TextOptions, ApiError> {
    let stop = fields.take("stop", "a string or a list of strings")?;
    let options = TextOptions {
        stop: stop.map_or_else(Vec::new, OneOrMany::into_vec),
        include_stop: fields.take_bool("include_stop_str_in_output")?.unwrap_or(false),
        skip_special_tokens: fields.take_bool("skip_special_tokens")?.unwrap_or(true),
        every_token: false,
    };
    options.check(limits)?;
    Ok(options)
}

pub(crate) fn take_stream_options(
    fields: &mut Fields<'_>,
    stream: bool,
) -> Result<StreamOptions, ApiError> {
    let expected = "an object of include_usage and continuous_usage_stats";
    let options = fields.take("stream_options", expected)?;
    if options.is_some() && !stream {
        let message = "stream_options is only allowed with stream: true";
        return Err(ApiError::invalid("stream_options", message));
    }
    Ok(options.unwrap_or_default())
}

pub(crate) fn take_cache_salt(fields: &mut Fields<'_>) -> Result<Option<String>, ApiError> {
    let salt = fields.take_string("cache_salt")?;
    salt.as_deref().map_or(Ok(()), check_cache_salt)?;
    Ok(salt)
}

fn null_is_false<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Option::<bool>::deserialize(deserializer).map(Option::unwrap_or_default)
}
