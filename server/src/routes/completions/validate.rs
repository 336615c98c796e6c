//! Parses and checks the body of `POST /v1/completions`.

use quire_engine::request::TokenId;

use crate::error::ApiError;
use crate::generation::sampling::check_n;
use crate::http::fields::{Fields, NeutralOnly, TextsOrIds};
use crate::limits::ServerLimits;
use crate::model::ServedModel;
use crate::routes::sampling::{CommonFields, take_prompt_logprobs};

/// A checked request.
pub(super) struct CompletionRequest {
    pub prompts: Vec<Prompt>,
    pub add_special_tokens: bool,
    pub common: CommonFields,
    /// 0 only with `echo`: nothing but the prompt is shown.
    pub max_tokens: u32,
    pub echo: bool,
    pub logprobs: Option<u32>,
    pub prompt_logprobs: Option<u32>,
    /// Answers to make of each prompt; those with the highest log probability a token are shown.
    pub best_of: u32,
}

pub(super) enum Prompt {
    Text(String),
    Tokens(Vec<TokenId>),
}

/// Completion fields without support, and the values that ask for nothing.
pub(crate) const UNSUPPORTED: &[NeutralOnly] =
    &[NeutralOnly("suffix", &[r#""""#]), NeutralOnly("prompt_embeds", &[])];

const DEFAULT_MAX_TOKENS: u32 = 16;

impl CompletionRequest {
    pub(super) fn take(
        fields: &mut Fields<'_>,
        model: &ServedModel,
        limits: &ServerLimits,
    ) -> Result<Self, ApiError> {
        fields.reject_unsupported(UNSUPPORTED)?;
        let prompts = take_prompts(fields, limits)?;
        let add_special_tokens = fields.take_bool("add_special_tokens")?.unwrap_or(true);
        let common = CommonFields::take(fields, model, limits)?;
        let echo = fields.take_bool("echo")?.unwrap_or(false);
        let max_tokens = fields.take_u32("max_tokens")?.unwrap_or(DEFAULT_MAX_TOKENS);
        if max_tokens == 0 && !echo {
            let message = "max_tokens must be at least 1 (0 is for echo only)";
            return Err(ApiError::invalid("max_tokens", message));
        }
        let logprobs = fields.take_u32("logprobs")?;
        let best_of = take_best_of(fields, &common, limits)?;
        let prompt_logprobs = take_prompt_logprobs(fields, common.stream)?;
        Ok(Self {
            prompts,
            add_special_tokens,
            common,
            max_tokens,
            echo,
            logprobs,
            prompt_logprobs,
            best_of,
        })
    }
}

fn take_best_of(
    fields: &mut Fields<'_>,
    common: &CommonFields,
    limits: &ServerLimits,
) -> Result<u32, ApiError> {
    let name = "best_of";
    let given = fields.take_integer(name, i64::from(common.n), i64::from(limits.max_n))?;
    let best_of = given.map_or(common.n, |count| count as u32);
    if best_of > common.n && common.stream {
        let message = "best_of above n is not available with stream: what is best shows at the end";
        return Err(ApiError::invalid(name, message));
    }
    check_n(best_of, &common.params)
        .map_err(|error| ApiError { param: Some(name.into()), ..error })?;
    Ok(best_of)
}

fn take_prompts(fields: &mut Fields<'_>, limits: &ServerLimits) -> Result<Vec<Prompt>, ApiError> {
    let prompts: Vec<Prompt> = match fields.take_texts_or_ids("prompt")? {
        None => return Err(ApiError::invalid("prompt", "prompt is missing")),
        Some(TextsOrIds::Text(text)) => vec![Prompt::Text(text)],
        Some(TextsOrIds::Ids(tokens)) => vec![Prompt::Tokens(tokens)],
        Some(TextsOrIds::Texts(texts)) => texts.into_iter().map(Prompt::Text).collect(),
        Some(TextsOrIds::IdLists(lists)) => lists.into_iter().map(Prompt::Tokens).collect(),
    };
    let limit = limits.max_prompts;
    if prompts.len() > limit {
        let message = format!("prompt has {} entries, over {limit} (--max-prompts)", prompts.len());
        return Err(ApiError::invalid("prompt", message));
    }
    Ok(prompts)
}
