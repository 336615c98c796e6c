//! Parses and checks the body of `POST /inference/v1/generate`.

use quire_engine::request::{SamplingParams, TokenId};

use crate::error::ApiError;
use crate::generation::TextOptions;
use crate::generation::sampling::check_n;
use crate::http::fields::{Fields, NeutralOnly};
use crate::limits::ServerLimits;
use crate::model::ServedModel;
use crate::routes::sampling::{
    StreamOptions, take_cache_salt, take_prompt_logprobs, take_sampling, take_stream_options,
    take_text_options,
};
use crate::structured::{self, StructuredOutput};

/// A checked request, but for its prompt.
pub(super) struct TokensRequest {
    pub n: u32,
    pub params: SamplingParams,
    pub structured_output: Option<StructuredOutput>,
    pub text: TextOptions,
    pub stream: bool,
    pub stream_options: StreamOptions,
    /// `None`: the headers may say.
    pub priority: Option<i32>,
    pub cache_salt: Option<String>,
}

/// Fields without support, and the values that ask for nothing.
pub(crate) const UNSUPPORTED: &[NeutralOnly] = &[
    NeutralOnly("features", &[]),
    NeutralOnly("kv_transfer_params", &[]),
    NeutralOnly("ec_transfer_params", &[]),
];

/// The same in `sampling_params`.
pub(crate) const UNSUPPORTED_SAMPLING: &[NeutralOnly] = &[
    NeutralOnly("extra_args", &["{}"]),
    NeutralOnly("logprob_token_ids", &[]),
    NeutralOnly("prompt_logprob_token_ids", &[]),
    NeutralOnly("prompt_logprob_start", &[]),
    NeutralOnly("flat_logprobs", &["false"]),
    NeutralOnly("spaces_between_special_tokens", &["true"]),
    NeutralOnly("repetition_detection", &[]),
    NeutralOnly("routed_experts_prompt_start", &["0"]),
    NeutralOnly("stream_interval", &["1"]),
    NeutralOnly("thinking_token_budget", &[]),
    NeutralOnly("trace_decode_token_ids", &[]),
    NeutralOnly("watermarking", &["false"]),
];

const SAMPLING: &str = "sampling_params";
/// vLLM's `SamplingParams` have it where no number is given; `null` is as many as fit.
const DEFAULT_MAX_TOKENS: u32 = 16;

impl TokensRequest {
    /// The request and its prompt.
    pub(super) fn take(
        fields: &mut Fields<'_>,
        model: &ServedModel,
        limits: &ServerLimits,
    ) -> Result<(Self, Vec<TokenId>), ApiError> {
        fields.reject_unsupported(UNSUPPORTED)?;
        let Some(prompt) = fields.take_ids("token_ids")? else {
            return Err(ApiError::invalid("token_ids", "token_ids is missing"));
        };
        let stream = fields.take_bool("stream")?.unwrap_or(false);
        let stream_options = take_stream_options(fields, stream)?;
        let (least, most) = (i64::from(i32::MIN), i64::from(i32::MAX));
        let priority = fields.take_integer("priority", least, most)?;
        let cache_salt = take_cache_salt(fields)?;
        let given = fields.take_raw(SAMPLING).map_or("{}", |raw| raw.get());
        let mut sampling = Fields::parse(given).map_err(inside)?;
        let structured_output = structured::fields::take(&mut sampling).map_err(inside)?;
        let (n, params, text) =
            take_params(&mut sampling, stream, model, limits).map_err(inside)?;
        let priority = priority.map(|priority| priority as i32);
        let request = Self {
            n,
            params,
            structured_output,
            text,
            stream,
            stream_options,
            priority,
            cache_salt,
        };
        Ok((request, prompt))
    }
}

fn take_params(
    fields: &mut Fields<'_>,
    stream: bool,
    model: &ServedModel,
    limits: &ServerLimits,
) -> Result<(u32, SamplingParams, TextOptions), ApiError> {
    fields.reject_unsupported(UNSUPPORTED_SAMPLING)?;
    let has_max_tokens = fields.has("max_tokens");
    let max_tokens = fields.take_u32("max_tokens")?;
    let mut sampling = take_sampling(fields)?;
    sampling.max_tokens = if has_max_tokens { max_tokens } else { Some(DEFAULT_MAX_TOKENS) };
    sampling.logprobs = fields.take_u32("logprobs")?;
    sampling.prompt_logprobs = take_prompt_logprobs(fields, stream)?;
    let mut params = sampling.resolve(model)?;
    let banned = fields.take_ids(BANNED_TOKENS)?;
    params.banned_token_ids.extend(banned.unwrap_or_default());
    let n = fields.take_integer("n", 1, i64::from(limits.max_n))?.unwrap_or(1) as u32;
    check_n(n, &params)?;
    let text = TextOptions { every_token: stream, ..take_text_options(fields, limits)? };
    // How much text is made of tokens, and when it is sent, is of no use without text.
    fields.take_bool("detokenize")?;
    fields.take_raw("output_kind");
    Ok((n, params, text))
}

/// Ids of `bad_words`, as `/render` writes them.
pub(crate) const BANNED_TOKENS: &str = "banned_token_ids";

/// The error of a field of `sampling_params`.
fn inside(error: ApiError) -> ApiError {
    let param = error.param.as_deref().map_or(SAMPLING.to_owned(), |f| format!("{SAMPLING}.{f}"));
    ApiError { param: Some(param.into()), ..error }
}

/// Names what the engine blames as this route calls it.
pub(super) fn blame(error: ApiError) -> ApiError {
    match error.param.as_deref() {
        Some("prompt") => ApiError { param: Some("token_ids".into()), ..error },
        Some("cache_salt") | None => error,
        Some(_) => inside(error),
    }
}
