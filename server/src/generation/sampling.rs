//! How to sample and show an answer, as any front-end may say it: what is absent gets the model's own defaults.

use quire_engine::request::{SamplingParams, TokenId};

use super::TextOptions;
use crate::error::{ApiError, shortened};
use crate::limits::ServerLimits;
use crate::model::ServedModel;

/// The fields of a request before defaults and checks. Names and meanings are vLLM's.
#[derive(Debug, Default)]
pub(crate) struct SamplingFields {
    pub max_tokens: Option<u32>,
    pub min_tokens: Option<u32>,
    pub temperature: Option<f32>,
    /// 0 and -1 are off.
    pub top_k: Option<i64>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub seed: Option<u64>,
    pub stop_token_ids: Vec<TokenId>,
    pub ignore_eos: Option<bool>,
    pub logit_bias: Vec<(TokenId, f32)>,
    pub allowed_token_ids: Option<Vec<TokenId>>,
    pub bad_words: Vec<String>,
    pub logprobs: Option<u32>,
    pub prompt_logprobs: Option<u32>,
}

/// Temperatures below this are raised to it, but for those that mean greedy.
const LEAST_TEMPERATURE: f32 = 0.01;
const GREEDY_TEMPERATURE: f32 = 1e-5;
const MAX_LOGIT_BIAS: f32 = 100.0;

impl SamplingFields {
    /// With `model`'s defaults. The engine checks the values themselves.
    pub(crate) fn resolve(self, model: &ServedModel) -> Result<SamplingParams, ApiError> {
        let defaults = &model.sampling_defaults;
        let bias = |(token, bias): (TokenId, f32)| {
            // Not a number stays what it is, for the engine to refuse.
            (token, bias.clamp(-MAX_LOGIT_BIAS, MAX_LOGIT_BIAS))
        };
        Ok(SamplingParams {
            max_tokens: self.max_tokens,
            min_tokens: self.min_tokens.unwrap_or(0),
            temperature: effective_temperature(self.temperature.unwrap_or(defaults.temperature)),
            top_k: self
                .top_k
                .map_or(defaults.top_k, |count| u32::try_from(count.max(0)).unwrap_or(u32::MAX)),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            seed: self.seed,
            stop_token_ids: self.stop_token_ids,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            logit_bias: self.logit_bias.into_iter().map(bias).collect(),
            allowed_token_ids: self.allowed_token_ids,
            banned_token_ids: banned_tokens(&self.bad_words, model)?,
            logprobs: self.logprobs,
            prompt_logprobs: self.prompt_logprobs,
            constraint: None,
        })
    }
}

fn effective_temperature(asked: f32) -> f32 {
    if (0.0..GREEDY_TEMPERATURE).contains(&asked) {
        0.0
    } else if (GREEDY_TEMPERATURE..LEAST_TEMPERATURE).contains(&asked) {
        LEAST_TEMPERATURE
    } else {
        asked
    }
}

/// A word is banned with and without a space before it, as far as each is one token.
fn banned_tokens(words: &[String], model: &ServedModel) -> Result<Vec<TokenId>, ApiError> {
    let limit = model.engine.info().limits.max_token_list;
    if words.len() > limit {
        let message = format!("bad_words has over {limit} entries (--max-token-list)");
        return Err(ApiError::invalid("bad_words", message));
    }
    let mut banned = Vec::new();
    for word in words {
        let before = banned.len();
        banned.extend([word.clone(), format!(" {word}")].iter().filter_map(|text| {
            match model.encode(text, false).as_slice() {
                [token] => Some(*token),
                _ => None,
            }
        }));
        if banned.len() == before {
            let word = shortened(word);
            let message = format!("{word:?} in bad_words is not a single token: not supported");
            return Err(ApiError::invalid("bad_words", message));
        }
    }
    Ok(banned)
}

/// More than one answer needs chance.
pub(crate) fn check_n(n: u32, params: &SamplingParams) -> Result<(), ApiError> {
    if n > 1 && params.temperature == 0.0 {
        let message = "n must be 1 when temperature is 0: all answers would be the same";
        return Err(ApiError::invalid("n", message));
    }
    Ok(())
}

/// A salt has no characters that mean something elsewhere.
pub(crate) fn check_cache_salt(salt: &str) -> Result<(), ApiError> {
    if salt.contains(['@', '/', '\\', '\0']) {
        let message = "cache_salt must not contain @, /, \\ or NUL";
        return Err(ApiError::invalid("cache_salt", message));
    }
    Ok(())
}

impl TextOptions {
    /// The stop strings within `limits`.
    pub(crate) fn check(&self, limits: &ServerLimits) -> Result<(), ApiError> {
        let (count, len) = (limits.max_stop_strings, limits.max_stop_len);
        if self.stop.len() > count {
            let message = format!("stop has over {count} strings (--max-stop-strings)");
            return Err(ApiError::invalid("stop", message));
        }
        if self.stop.iter().any(|stop| stop.is_empty() || stop.len() > len) {
            let message = format!("each stop string must have 1 to {len} bytes (--max-stop-len)");
            return Err(ApiError::invalid("stop", message));
        }
        Ok(())
    }
}
